//! What is counted on one side of a pair, or of a tensor alone.

use serde::{Deserialize, Serialize};

use super::block32::{Extent, count_below, zeros};
use super::decode::Limits;

/// Counts and extremes of one tensor's values. Extremes and sum are over the finite values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Finite values.
    pub finite: u64,
    /// Smallest finite value; infinity when there is none.
    pub min: f64,
    /// Largest finite value; −infinity when there is none.
    pub max: f64,
    /// Sum of the finite values.
    pub sum: f64,
    /// Sum of the squares of the finite values; for a pair it is kept over the pair's finite elements instead.
    pub squares: f64,
    /// NaN values.
    pub nan: u64,
    /// +Inf values.
    pub pos_inf: u64,
    /// −Inf values.
    pub neg_inf: u64,
    /// Zeros of either sign.
    pub zero: u64,
    /// Nonzero values below the dtype's smallest normal magnitude.
    pub subnormal: u64,
    /// Finite values beyond 0.9 of the dtype's maximum.
    pub near_max: u64,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            finite: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            squares: 0.0,
            nan: 0,
            pos_inf: 0,
            neg_inf: 0,
            zero: 0,
            subnormal: 0,
            near_max: 0,
        }
    }
}

impl Side {
    /// Adds a block of finite values, and returns its smallest nonzero magnitude.
    pub fn add_finite(&mut self, x: &[f32], extent: &Extent, limits: Limits) -> f32 {
        self.finite += x.len() as u64;
        self.min = self.min.min(f64::from(extent.min));
        self.max = self.max.max(f64::from(extent.max));
        self.sum += extent.sum;
        let mut closest = extent.closest;
        if closest == 0.0 {
            let zeros;
            (zeros, closest) = super::block32::zeros(x);
            self.zero += zeros;
        }
        if f64::from(closest) < limits.normal {
            // The limit of every dtype with f32 lanes is exact in f32.
            self.subnormal += count_below(x, limits.normal as f32) - zeros(x).0;
        }
        if f64::from(extent.farthest()) > limits.near_max {
            self.near_max += x.iter().filter(|v| f64::from(v.abs()) > limits.near_max).count() as u64;
        }
        closest
    }

    /// Adds values of any kind.
    pub fn add_any(&mut self, values: impl Iterator<Item = f64>, limits: Limits) {
        for x in values {
            if x.is_finite() {
                self.finite += 1;
                self.min = self.min.min(x);
                self.max = self.max.max(x);
                self.sum += x;
                self.zero += u64::from(x == 0.0);
                self.subnormal += u64::from(x != 0.0 && x.abs() < limits.normal);
                self.near_max += u64::from(x.abs() > limits.near_max);
            } else if x.is_nan() {
                self.nan += 1;
            } else if x > 0.0 {
                self.pos_inf += 1;
            } else {
                self.neg_inf += 1;
            }
        }
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.finite += other.finite;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.squares += other.squares;
        self.nan += other.nan;
        self.pos_inf += other.pos_inf;
        self.neg_inf += other.neg_inf;
        self.zero += other.zero;
        self.subnormal += other.subnormal;
        self.near_max += other.near_max;
    }

    /// Mean of the finite values; NaN when there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.finite as f64
    }

    /// Smallest finite value; NaN when there is none.
    #[must_use]
    pub fn lowest(&self) -> f64 {
        if self.finite == 0 { f64::NAN } else { self.min + 0.0 }
    }

    /// Largest finite value; NaN when there is none.
    #[must_use]
    pub fn highest(&self) -> f64 {
        if self.finite == 0 { f64::NAN } else { self.max + 0.0 }
    }
}
