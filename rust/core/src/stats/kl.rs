//! Kullback–Leibler divergence of two softmax rows, KL(softmax(a) ‖ softmax(b)), in natural units.
//!
//! With weights w = exp(a − m) for any reference m, and δ = b − a,
//!
//! ```text
//! KL = ln(1 + (M + G) / Z) − M / Z,   Z = Σ w,  M = Σ w·δ,  G = Σ w·(exp(δ) − 1 − δ)
//! ```
//!
//! which keeps its digits when the rows nearly agree: there G and M are small, and an error of M enters only
//! in second order. Where some |δ| exceeds [`SMALL`], both sides get a reference and a sum of their own, and
//! δ = (b − n) − (a − m) is what remains beside them:
//!
//! ```text
//! KL = ln Σ exp(b − n) − ln Z − M / Z
//! ```

use fearless_simd::{Level, dispatch, f32x16, prelude::*, u32x16};

use super::block32::{each_pair, folded};

/// Up to this |δ| the series of exp(δ) − 1 − δ is used.
pub const SMALL: f32 = 0.25;
/// Up to this |δ|, and this magnitude of the references, everything stays in the range of `f32`.
const LARGE: f64 = 1e37;
const FAR: f64 = 1e38;
/// A block's weights may exceed 1 by this exponent before the reference moves.
const HEADROOM: f64 = 60.0;
/// Exponents below this give weight 0.
const FLOOR: f32 = -88.0;
/// Far below every number that [`Row::add`] takes: its weight is 0.
pub const OUT: f32 = -2e38;

/// What is known of one row after some of its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Elements counted.
    pub count: u64,
    golden_top: f64,
    z: f64,
    m: f64,
    g: f64,
    /// Σ exp(b − reference) and its reference, once a large δ was met.
    candidate: Option<(f64, f64)>,
}

impl Default for Row {
    fn default() -> Self {
        Self { count: 0, golden_top: f64::NEG_INFINITY, z: 0.0, m: 0.0, g: 0.0, candidate: None }
    }
}

/// The largest values of a piece of a row.
#[derive(Clone, Copy, Debug)]
pub struct Tops {
    /// Largest golden value.
    pub golden: f64,
    /// Largest candidate value.
    pub candidate: f64,
    /// Largest |candidate − golden|.
    pub difference: f64,
}

impl Row {
    /// Whether [`Self::add`] can take a piece with these tops; if not, [`Self::add_f64`] must.
    #[must_use]
    pub fn fits(&self, tops: Tops) -> bool {
        let candidate = self.candidate.map_or(0.0, |(top, _)| top);
        let golden = if self.z == 0.0 { 0.0 } else { self.golden_top };
        let near = [golden, candidate, tops.golden, tops.candidate].iter().all(|top| top.abs() <= FAR);
        near && tops.difference <= LARGE
    }

    /// Adds a piece of the row. Elements that are not to count hold a number far below the others on both
    /// sides and are left out of `count`; `tops` are those of the rest.
    pub fn add(&mut self, a: &[f32], b: &[f32], count: u64, tops: Tops) {
        if count == 0 {
            return;
        }
        let wide = tops.difference > f64::from(SMALL);
        self.prepare(count, tops, wide);
        if let Some((top, sum)) = &mut self.candidate {
            let (z, m, z_candidate) = weigh_apart(a, b, self.golden_top as f32, *top as f32);
            self.z += z;
            self.m += m;
            *sum += z_candidate;
        } else {
            let (z, m, g) = weigh_together(a, b, self.golden_top as f32);
            self.z += z;
            self.m += m;
            self.g += g;
        }
    }

    /// The same in `f64`, for the elements where `counted` holds.
    pub fn add_f64(&mut self, a: &[f64], b: &[f64], counted: impl Fn(usize) -> bool, count: u64, tops: Tops) {
        if count == 0 {
            return;
        }
        self.prepare(count, tops, tops.difference > f64::from(SMALL));
        for (_, (&a, &b)) in a.iter().zip(b).enumerate().filter(|&(i, _)| counted(i)) {
            let w = libm::exp(a - self.golden_top);
            self.z += w;
            if let Some((top, sum)) = &mut self.candidate {
                let below = b - *top;
                *sum += libm::exp(below);
                if w > 0.0 {
                    self.m += w * (below - (a - self.golden_top));
                }
            } else {
                self.m += w * (b - a);
                self.g += w * series(b - a);
            }
        }
    }

    fn prepare(&mut self, count: u64, tops: Tops, wide: bool) {
        self.count += count;
        if wide {
            self.part();
        }
        if tops.golden > self.golden_top + HEADROOM || self.z == 0.0 {
            self.move_golden(tops.golden);
        }
        if let Some((top, sum)) = self.candidate
            && (tops.candidate > top + HEADROOM || sum == 0.0)
        {
            self.move_candidate(tops.candidate);
        }
    }

    /// From here on the candidate has a reference of its own.
    fn part(&mut self) {
        if self.candidate.is_none() {
            self.candidate = Some((self.golden_top, self.z + self.m + self.g));
        }
    }

    fn move_golden(&mut self, top: f64) {
        let by = shrink(self.golden_top, top);
        self.z *= by;
        self.m *= by;
        self.g *= by;
        if self.candidate.is_some() && self.z > 0.0 {
            self.m += self.z * (top - self.golden_top);
        }
        self.golden_top = top;
    }

    fn move_candidate(&mut self, top: f64) {
        if let Some((old, sum)) = &mut self.candidate {
            if self.z > 0.0 {
                self.m -= self.z * (top - *old);
            }
            *sum *= shrink(*old, top);
            *old = top;
        }
    }

    /// Joins the sums of a later piece of the same row.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let mut other = *other;
        if self.candidate.is_some() || other.candidate.is_some() {
            self.part();
            other.part();
        }
        let top = self.golden_top.max(other.golden_top);
        self.move_golden(top);
        other.move_golden(top);
        if let (Some((mine, _)), Some((theirs, _))) = (self.candidate, other.candidate) {
            self.move_candidate(mine.max(theirs));
            other.move_candidate(mine.max(theirs));
        }
        self.count += other.count;
        self.z += other.z;
        self.m += other.m;
        self.g += other.g;
        if let (Some((_, sum)), Some((_, other_sum))) = (&mut self.candidate, other.candidate) {
            *sum += other_sum;
        }
    }

    /// The divergence; 0 for rows of at most one element.
    #[must_use]
    pub fn divergence(&self) -> f64 {
        if self.count <= 1 {
            return 0.0;
        }
        let mean = self.m / self.z;
        let value = match self.candidate {
            None => libm::log1p((self.m + self.g) / self.z) - mean,
            Some((_, sum)) => libm::log(sum) - libm::log(self.z) - mean,
        };
        // Rounding can leave a zero slightly negative.
        if value < 0.0 { 0.0 } else { value }
    }
}

/// exp(old − new) for a reference that moves up, without NaN when there was none before.
fn shrink(old: f64, new: f64) -> f64 {
    if old == f64::NEG_INFINITY { 0.0 } else { libm::exp(old - new) }
}

/// exp(δ) − 1 − δ for |δ| ≤ [`SMALL`].
fn series(d: f64) -> f64 {
    let tail = (1.0 / 120.0) + d * ((1.0 / 720.0) + d * ((1.0 / 5040.0) + d * (1.0 / 40320.0)));
    d * d * (0.5 + d * ((1.0 / 6.0) + d * ((1.0 / 24.0) + d * tail)))
}

/// Z, M and G of a piece whose |δ| are all small.
fn weigh_together(a: &[f32], b: &[f32], top: f32) -> (f64, f64, f64) {
    dispatch!(Level::new(), s => together(s, a, b, top))
}

#[inline(always)]
fn together<S: Simd>(s: S, a: &[f32], b: &[f32], top: f32) -> (f64, f64, f64) {
    let mut acc = [splat(s, 0.0); 3];
    let (top, floor) = (splat(s, top), splat(s, FLOOR));
    // exp(δ) − 1 − δ = δ² · tail
    let (c2, c3, c4) = (splat(s, 1.0 / 2.0), splat(s, 1.0 / 6.0), splat(s, 1.0 / 24.0));
    let (c5, c6) = (splat(s, 1.0 / 120.0), splat(s, 1.0 / 720.0));
    each_pair(
        s,
        a,
        b,
        (OUT, OUT),
        #[inline(always)]
        |a, b| {
            let below = a - top;
            // Where every weight is 0 there is nothing to add: most of a row with a few large values.
            if below.simd_gt(floor).any_true() {
                let d = b - a;
                let w = exp(s, below);
                let wd = w * d;
                let tail = fused(d, fused(d, c6, c5), c4);
                let tail = fused(d, fused(d, tail, c3), c2);
                acc[0] += w;
                acc[1] += wd;
                acc[2] = fused(wd * d, tail, acc[2]);
            }
        },
    );
    (folded(acc[0]), folded(acc[1]), folded(acc[2]))
}

/// Z, M and the candidate's sum of a piece.
fn weigh_apart(a: &[f32], b: &[f32], top: f32, candidate_top: f32) -> (f64, f64, f64) {
    dispatch!(Level::new(), s => apart(s, a, b, top, candidate_top))
}

#[inline(always)]
fn apart<S: Simd>(s: S, a: &[f32], b: &[f32], top: f32, candidate_top: f32) -> (f64, f64, f64) {
    let mut acc = [splat(s, 0.0); 3];
    let (top, candidate_top) = (splat(s, top), splat(s, candidate_top));
    let (floor, lowest) = (splat(s, FLOOR), splat(s, -3e38));
    each_pair(
        s,
        a,
        b,
        (OUT, OUT),
        #[inline(always)]
        |a, b| {
            // Where the weight is 0 the product must be 0 too, not 0 · ∞.
            let (a, b) = ((a - top).max(floor), (b - candidate_top).max(lowest));
            if (a.simd_gt(floor) | b.simd_gt(floor)).any_true() {
                let w = exp(s, a);
                acc[0] += w;
                acc[1] = fused(w, b - a, acc[1]);
                acc[2] += exp(s, b);
            }
        },
    );
    (folded(acc[0]), folded(acc[1]), folded(acc[2]))
}

#[inline(always)]
fn splat<S: Simd>(s: S, value: f32) -> f32x16<S> {
    f32x16::splat(s, value)
}

/// x · y + z, rounded once.
#[inline(always)]
fn fused<S: Simd>(x: f32x16<S>, y: f32x16<S>, z: f32x16<S>) -> f32x16<S> {
    x.mul_add_precise(y, z)
}

/// exp(x) for x ≤ 88, 0 below [`FLOOR`]; relative error below 3e-7.
#[inline(always)]
fn exp<S: Simd>(s: S, x: f32x16<S>) -> f32x16<S> {
    // Adding and subtracting 1.5·2²³ rounds to the nearest integer without a call on any instruction set.
    let round = splat(s, 12_582_912.0);
    let x = x.max(splat(s, FLOOR));
    let shifted = fused(x, splat(s, std::f32::consts::LOG2_E), round);
    let n = shifted - round;
    // ln 2 in two parts: the product of 355/512 with an integer of 15 bits is exact.
    let r = fused(n, splat(s, 2.121_944_4e-4), fused(n, splat(s, -355.0 / 512.0), x));
    let one = splat(s, 1.0);
    let tail = fused(r, fused(r, splat(s, 1.393_5e-3), splat(s, 8.333_333e-3)), splat(s, 4.166_579_6e-2));
    let tail = fused(r, fused(r, tail, splat(s, 1.666_666_6e-1)), splat(s, 0.5));
    let poly = fused(r, fused(r, tail, one), one);
    // n ≥ −127, where the bits of the scale become those of 0.
    let bits: u32x16<S> = shifted.bitcast();
    let scale = (bits << 23) + u32x16::splat(s, 127 << 23);
    poly * scale.bitcast::<f32x16<S>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_three_in_ten_million() {
        let exp = |x: f32| dispatch!(Level::new(), s => exp(s, f32x16::splat(s, x)).to_array()[0]);
        let mut worst = 0f64;
        let mut x = -87.0f32;
        while x < 80.0 {
            let truth = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - truth).abs() / truth);
            x += 0.000_37;
        }
        assert!(worst < 3e-7, "{worst:e}");
        assert!(exp(-88.0) == 0.0 && exp(-1e30) == 0.0 && exp(f32::NEG_INFINITY) == 0.0);
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
    }

    fn plain(a: &[f32], b: &[f32]) -> f64 {
        let softmax = |x: &[f32]| {
            let top = x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
            let e: Vec<f64> = x.iter().map(|&v| f64::from(v - top).exp()).collect();
            let z: f64 = e.iter().sum();
            e.iter().map(|e| e / z).collect::<Vec<_>>()
        };
        softmax(a)
            .iter()
            .zip(softmax(b))
            .map(|(p, q)| if *p > 0.0 { p * (p.ln() - q.ln()) } else { 0.0 })
            .sum()
    }

    fn ours(a: &[f32], b: &[f32], piece: usize) -> f64 {
        let mut row = Row::default();
        for (a, b) in a.chunks(piece).zip(b.chunks(piece)) {
            let top = |x: &[f32]| f64::from(x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v)));
            let difference = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((b - a).abs()));
            let tops = Tops { golden: top(a), candidate: top(b), difference: difference.into() };
            row.add(a, b, a.len() as u64, tops);
        }
        row.divergence()
    }

    #[test]
    fn rows_agree_with_the_definition() {
        for (scale, noise) in [(1.0f32, 1e-3f32), (10.0, 0.1), (10.0, 3.0), (60.0, 30.0)] {
            let a: Vec<f32> = (0..1000).map(|i| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * scale).collect();
            let b: Vec<f32> = a
                .iter()
                .enumerate()
                .map(|(i, a)| a + ((i * 104_729 % 997) as f32 / 498.5 - 1.0) * noise)
                .collect();
            let truth = plain(&a, &b);
            for piece in [7, 100, 512, 1000] {
                let got = ours(&a, &b, piece);
                assert!((got - truth).abs() < 3e-6 * truth, "{scale} {noise} {piece}: {got:e} {truth:e}");
            }
        }
    }

    #[test]
    fn a_later_piece_far_above_moves_the_reference() {
        let a = [0.0f32, 1.0, 200.0, 199.0];
        let b = [1.0f32, 1.0, 198.0, 199.0];
        assert!((ours(&a, &b, 2) - plain(&a, &b)).abs() < 1e-6);
        assert!((ours(&b, &a, 2) - plain(&b, &a)).abs() < 1e-6);
    }

    #[test]
    fn identical_rows_have_no_divergence() {
        let a: Vec<f32> = (0..600).map(|i| (i as f32).sin() * 20.0).collect();
        assert!(ours(&a, &a, 512) == 0.0);
    }
}
