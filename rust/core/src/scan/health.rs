//! What a scan knows of one tensor.

/// A kind of value that is counted and whose first place is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not a number.
    Nan,
    /// +Inf.
    PosInf,
    /// −Inf.
    NegInf,
    /// Zero of either sign.
    Zero,
    /// Nonzero and below the dtype's smallest normal magnitude.
    Subnormal,
    /// Finite and beyond 0.9 of the dtype's largest magnitude.
    NearMax,
    /// Exactly at the end of the dtype's range, where saturating arithmetic leaves what overflowed.
    Saturated,
}

impl Class {
    /// Every class, in the order of [`Health::counts`].
    pub const ALL: [Self; 7] =
        [Self::Nan, Self::PosInf, Self::NegInf, Self::Zero, Self::Subnormal, Self::NearMax, Self::Saturated];

    /// The name in columns.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nan => "nan",
            Self::PosInf => "pos_inf",
            Self::NegInf => "neg_inf",
            Self::Zero => "zero",
            Self::Subnormal => "subnormal",
            Self::NearMax => "near_max",
            Self::Saturated => "saturated",
        }
    }
}

/// Counts and extremes of one tensor. Of complex elements both parts are counted, and places are elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Numbers looked at.
    pub numbers: u64,
    /// How many are of each [`Class`].
    pub counts: [u64; 7],
    /// The first of each [`Class`], in row-major order; `u64::MAX` when there is none.
    pub first: [u64; 7],
    /// Smallest finite value; infinity when there is none.
    pub min: f64,
    /// Largest finite value; −infinity when there is none.
    pub max: f64,
    /// Smallest nonzero magnitude; infinity when there is none.
    pub least: f64,
    /// Finite numbers that the sums are over: all of a small tensor, a share of the blocks of a large one.
    pub summed: u64,
    /// Their sum.
    pub sum: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// Sizes of the outer dimensions multiplied, and of the last one; rows is 1 for a vector or scalar.
    pub rows: u64,
    /// Size of the last dimension.
    pub channels: u64,
    /// Rows of zeros only; 0 where there is one row.
    pub dead_rows: u64,
    /// Channels that are zero in every row; 0 where there is one row or more than 2²⁰ channels.
    pub dead_channels: u64,
    /// Rows equal to an earlier row and not zero.
    pub repeated_rows: u64,
    /// The first such row and the row it repeats.
    pub repeat: Option<(u64, u64)>,
}

/// The extremes of a tensor, as far as its parts are scanned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extremes {
    pub(super) min: f64,
    pub(super) max: f64,
    /// Smallest nonzero magnitude.
    pub(super) least: f64,
}

impl Extremes {
    /// Those of more parts.
    pub(super) fn with(self, health: &Health) -> Self {
        Self {
            min: self.min.min(health.min),
            max: self.max.max(health.max),
            least: self.least.min(health.least),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            numbers: 0,
            counts: [0; 7],
            first: [u64::MAX; 7],
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            least: f64::INFINITY,
            summed: 0,
            sum: 0.0,
            squares: 0.0,
            rows: 1,
            channels: 0,
            dead_rows: 0,
            dead_channels: 0,
            repeated_rows: 0,
            repeat: None,
        }
    }
}

impl Health {
    /// How many numbers are of a class.
    #[must_use]
    pub fn count(&self, class: Class) -> u64 {
        self.counts[class as usize]
    }

    /// Finite numbers.
    #[must_use]
    pub fn finite(&self) -> u64 {
        self.numbers - self.count(Class::Nan) - self.count(Class::PosInf) - self.count(Class::NegInf)
    }

    /// Largest finite magnitude; NaN when nothing is finite.
    #[must_use]
    pub fn abs_max(&self) -> f64 {
        if self.finite() == 0 { f64::NAN } else { self.max.max(-self.min) }
    }

    /// Root of the mean square of the finite values; NaN when there is none.
    #[must_use]
    pub fn rms(&self) -> f64 {
        (self.squares / self.summed as f64).sqrt()
    }

    /// Mean of the finite values; NaN when there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.summed as f64
    }

    /// Adds what the sums are over.
    pub(super) fn add_sums(&mut self, summed: u64, (sum, squares): (f64, f64)) {
        self.summed += summed;
        self.sum += sum;
        self.squares += squares;
    }

    /// Whether every number has the same value.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.numbers > 1 && self.finite() == self.numbers && self.min.total_cmp(&self.max).is_eq()
    }

    /// Adds to a class; `place` finds the first of them, and is only called when it may come earlier.
    pub(super) fn add(&mut self, class: Class, count: u64, place: impl FnOnce() -> u64) {
        if count == 0 {
            return;
        }
        self.counts[class as usize] += count;
        let first = &mut self.first[class as usize];
        if *first == u64::MAX {
            *first = place();
        }
    }

    /// Adds extremes of finite values.
    /// Extremes that are known.
    pub(super) fn extremes(&self) -> Extremes {
        Extremes { min: self.min, max: self.max, least: self.least }
    }

    pub(super) fn extend(&mut self, min: f64, max: f64, least: f64) {
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        self.least = self.least.min(least);
    }

    /// Adds what does not depend on the order of parts: everything but the sums.
    pub(super) fn merge(&mut self, other: &Self) {
        self.numbers += other.numbers;
        self.summed += other.summed;
        for class in Class::ALL {
            let i = class as usize;
            self.counts[i] += other.counts[i];
            self.first[i] = self.first[i].min(other.first[i]);
        }
        self.extend(other.min, other.max, other.least);
        self.dead_rows += other.dead_rows;
    }
}
