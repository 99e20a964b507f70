//! Passes over one block of at most [`BLOCK`] `f32` values that lies in the first-level cache.
//!
//! Vectors of [`LANES`] lanes on every instruction set, picked at run time. Lane `i % LANES` takes element
//! `i`, products are rounded once together with what they are added to, and lanes are folded in a fixed tree:
//! the same bits everywhere. A lane adds at most `BLOCK / LANES` = 32 terms in `f32` before the sums go on in `f64`.

use fearless_simd::{Level, dispatch, f32x16, f64x8, prelude::*, u32x16};

use super::ulp;

/// Longest block.
pub const BLOCK: usize = 512;
/// Independent accumulators of every sum.
pub const LANES: usize = 16;

/// Squares, quotients and their sums over a block neither overflow nor vanish in `f32` while every nonzero
/// magnitude is at least this …
pub const SMALLEST: f32 = 1.0 / (1u64 << 48) as f32;
/// … and at most this …
pub const LARGEST: f32 = (1u64 << 58) as f32;
/// … and the largest difference, when it is not zero, at least this.
pub const SMALLEST_DIFFERENCE: f32 = 1.0 / (1u64 << 58) as f32;

type V<S> = f32x16<S>;

/// One side of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Smallest magnitude.
    pub closest: f32,
    /// Sum. Not finite whenever one of the values is not.
    pub sum: f64,
}

impl Extent {
    /// Largest magnitude.
    #[must_use]
    pub fn farthest(&self) -> f32 {
        self.max.max(-self.min)
    }
}

/// Sums over a pair of blocks, golden `a` and candidate `b`, `d = b - a`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ d².
    pub dd: f64,
    /// Σ a².
    pub aa: f64,
    /// Σ b².
    pub bb: f64,
    /// Σ ab.
    pub ab: f64,
    /// Σ ad.
    pub ad: f64,
    /// Σ |d|.
    pub abs: f64,
    /// Largest |d|.
    pub max_abs: f64,
    /// Σ |d / a| over a ≠ 0.
    pub rel: f64,
    /// Largest |d / a| over a ≠ 0.
    pub max_rel: f64,
}

/// What [`survey`] finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survey {
    /// The golden side.
    pub golden: Extent,
    /// The candidate side.
    pub candidate: Extent,
    /// Sums over both, but for `bb` and `ab`. Only meaningful within the magnitudes above, and `rel` only
    /// without zeros in the golden block.
    pub sums: Sums,
    /// Largest distance of two corresponding elements in units in the last place of `f32`.
    pub ulp: u32,
}

/// Extremes and sum of a block.
#[must_use]
pub fn extent(x: &[f32]) -> Extent {
    dispatch!(Level::new(), s => extent_in(s, x))
}

#[inline(always)]
fn extent_in<S: Simd>(s: S, x: &[f32]) -> Extent {
    let mut side = Side::new(s);
    let (chunks, tail) = x.as_chunks::<LANES>();
    for x in chunks {
        side.add(V::from_slice(s, x));
    }
    side.add_tail(s, tail);
    side.extent()
}

/// The same, and Σ x², which only means something within the magnitudes above.
#[must_use]
pub fn extent_and_squares(x: &[f32]) -> (Extent, f64) {
    dispatch!(Level::new(), s => extent_and_squares_in(s, x))
}

#[inline(always)]
fn extent_and_squares_in<S: Simd>(s: S, x: &[f32]) -> (Extent, f64) {
    let (mut side, mut squares) = (Side::new(s), V::splat(s, 0.0));
    let (chunks, tail) = x.as_chunks::<LANES>();
    for x in chunks {
        let x = V::from_slice(s, x);
        side.add(x);
        squares += x * x;
    }
    if !tail.is_empty() {
        side.add_tail(s, tail);
        let x = padded(s, tail, 0.0);
        squares += x * x;
    }
    (side.extent(), folded(squares))
}

/// Extremes of both sides of a pair of blocks, and the sums over it.
#[must_use]
pub fn survey(a: &[f32], b: &[f32]) -> Survey {
    survey_at(Level::new(), a, b)
}

fn survey_at(level: Level, a: &[f32], b: &[f32]) -> Survey {
    dispatch!(level, s => survey_in(s, a, b))
}

#[inline(always)]
fn survey_in<S: Simd>(s: S, a: &[f32], b: &[f32]) -> Survey {
    let (mut golden, mut candidate) = (Side::new(s), Side::new(s));
    let (mut pair, mut quotients, mut distance) = (Pair::new(s), Quotients::new(s), Distance::new(s));
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    // Where a vector is one register there are enough of them for all accumulators at once. The order of
    // operations on each accumulator is the same either way.
    if S::f32s::LEN >= LANES {
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            let (a, b) = (V::from_slice(s, a), V::from_slice(s, b));
            golden.add(a);
            candidate.add(b);
            pair.add(a, b);
            quotients.add(a, b);
            distance.add(s, a, b);
        }
    } else {
        for a in a_chunks {
            golden.add(V::from_slice(s, a));
        }
        for b in b_chunks {
            candidate.add(V::from_slice(s, b));
        }
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            pair.add(V::from_slice(s, a), V::from_slice(s, b));
        }
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            quotients.add(V::from_slice(s, a), V::from_slice(s, b));
        }
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            distance.add(s, V::from_slice(s, a), V::from_slice(s, b));
        }
    }
    if !a_tail.is_empty() {
        golden.add_tail(s, a_tail);
        candidate.add_tail(s, b_tail);
        let (a, b) = (padded(s, a_tail, 0.0), padded(s, b_tail, 0.0));
        pair.add(a, b);
        distance.add(s, a, b);
        quotients.add(padded(s, a_tail, 1.0), padded(s, b_tail, 1.0));
    }
    let (rel, max_rel) = quotients.fold();
    Survey {
        golden: golden.extent(),
        candidate: candidate.extent(),
        sums: Sums { rel, max_rel, ..pair.sums() },
        ulp: distance.largest.reduce_max(),
    }
}

/// Σ |d / a| and the largest |d / a| over a ≠ 0, of a block that holds zeros.
#[must_use]
pub fn quotients(a: &[f32], b: &[f32]) -> (f64, f64) {
    dispatch!(Level::new(), s => quotients_in(s, a, b))
}

#[inline(always)]
fn quotients_in<S: Simd>(s: S, a: &[f32], b: &[f32]) -> (f64, f64) {
    let mut quotients = Quotients::new(s);
    let (zero, one) = (V::splat(s, 0.0), V::splat(s, 1.0));
    each_pair(
        s,
        a,
        b,
        (1.0, 1.0),
        #[inline(always)]
        |a, b| {
            let zeros = a.simd_eq(zero);
            quotients.add(zeros.select(one, a), zeros.select(one, b));
        },
    );
    quotients.fold()
}

/// Σ d², Σ a², Σ b², Σ ab and Σ ad with every term and sum in `f64`.
#[must_use]
pub fn squares(a: &[f32], b: &[f32]) -> Sums {
    dispatch!(Level::new(), s => squares_in(s, a, b))
}

#[inline(always)]
fn squares_in<S: Simd>(s: S, a: &[f32], b: &[f32]) -> Sums {
    let mut acc = [[f64x8::splat(s, 0.0); 2]; 5];
    each_pair(
        s,
        a,
        b,
        (0.0, 0.0),
        #[inline(always)]
        |a, b| {
            let ((a0, a1), (b0, b1)) = (a.widen(), b.widen());
            for (half, a, b) in [(0, a0, b0), (1, a1, b1)] {
                let d = b - a;
                acc[0][half] += d * d;
                acc[1][half] += a * a;
                acc[2][half] += b * b;
                acc[3][half] += a * b;
                acc[4][half] += a * d;
            }
        },
    );
    Sums {
        dd: (acc[0][0] + acc[0][1]).reduce_sum(),
        aa: (acc[1][0] + acc[1][1]).reduce_sum(),
        bb: (acc[2][0] + acc[2][1]).reduce_sum(),
        ab: (acc[3][0] + acc[3][1]).reduce_sum(),
        ad: (acc[4][0] + acc[4][1]).reduce_sum(),
        ..Sums::default()
    }
}

/// Adds d² and a² of every element to its channel.
pub fn add_channels(a: &[f32], b: &[f32], channel_dd: &mut [f32], channel_aa: &mut [f32]) {
    dispatch!(Level::new(), s => add_channels_in(s, a, b, channel_dd, channel_aa));
}

#[inline(always)]
fn add_channels_in<S: Simd>(s: S, a: &[f32], b: &[f32], channel_dd: &mut [f32], channel_aa: &mut [f32]) {
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    let (dd_chunks, dd_tail) = channel_dd.as_chunks_mut::<LANES>();
    let (aa_chunks, aa_tail) = channel_aa.as_chunks_mut::<LANES>();
    for (((a, b), dd), aa) in a_chunks.iter().zip(b_chunks).zip(dd_chunks).zip(aa_chunks) {
        let a = V::from_slice(s, a);
        let d = V::from_slice(s, b) - a;
        d.mul_add_precise(d, V::from_slice(s, dd)).store_array(dd);
        a.mul_add_precise(a, V::from_slice(s, aa)).store_array(aa);
    }
    for (((&a, &b), dd), aa) in a_tail.iter().zip(b_tail).zip(dd_tail).zip(aa_tail) {
        let d = b - a;
        *dd = d.mul_add(d, *dd);
        *aa = a.mul_add(a, *aa);
    }
}

/// Σ d² and Σ a² of a short row.
#[must_use]
pub fn row_sums(a: &[f32], b: &[f32]) -> (f64, f64) {
    dispatch!(Level::new(), s => row_sums_in(s, a, b))
}

#[inline(always)]
fn row_sums_in<S: Simd>(s: S, a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut dd, mut aa) = (V::splat(s, 0.0), V::splat(s, 0.0));
    each_pair(
        s,
        a,
        b,
        (0.0, 0.0),
        #[inline(always)]
        |a, b| {
            let d = b - a;
            dd = d.mul_add_precise(d, dd);
            aa = a.mul_add_precise(a, aa);
        },
    );
    (folded(dd), folded(aa))
}

/// Largest value, largest value of the other side, and largest |b - a| of a short row.
#[must_use]
pub fn row_extremes(a: &[f32], b: &[f32]) -> (f32, f32, f32) {
    dispatch!(Level::new(), s => row_extremes_in(s, a, b))
}

#[inline(always)]
fn row_extremes_in<S: Simd>(s: S, a: &[f32], b: &[f32]) -> (f32, f32, f32) {
    let lowest = V::splat(s, f32::NEG_INFINITY);
    let (mut top_a, mut top_b, mut difference) = (lowest, lowest, V::splat(s, 0.0));
    each_pair(
        s,
        a,
        b,
        (a[0], b[0]),
        #[inline(always)]
        |a, b| {
            (top_a, top_b) = (a.max(top_a), b.max(top_b));
            difference = (b - a).abs().max(difference);
        },
    );
    (top_a.reduce_max(), top_b.reduce_max(), difference.reduce_max())
}

/// Zeros of a block, and its smallest nonzero magnitude (infinity when there is none).
#[must_use]
pub fn zeros(x: &[f32]) -> (u64, f32) {
    dispatch!(Level::new(), s => zeros_in(s, x))
}

#[inline(always)]
fn zeros_in<S: Simd>(s: S, x: &[f32]) -> (u64, f32) {
    let (zero, infinity) = (V::splat(s, 0.0), V::splat(s, f32::INFINITY));
    let (mut count, mut closest) = (0, infinity);
    each(
        s,
        x,
        f32::INFINITY,
        #[inline(always)]
        |x| {
            let zeros = x.simd_eq(zero);
            count += u64::from(zeros.to_bitmask().count_ones());
            closest = zeros.select(infinity, x.abs()).min(closest);
        },
    );
    (count, closest.reduce_min())
}

/// How many magnitudes are below `limit`.
#[must_use]
pub fn count_below(x: &[f32], limit: f32) -> u64 {
    dispatch!(Level::new(), s => count_below_in(s, x, limit))
}

#[inline(always)]
fn count_below_in<S: Simd>(s: S, x: &[f32], limit: f32) -> u64 {
    let (limits, mut count) = (V::splat(s, limit), 0);
    each(
        s,
        x,
        f32::INFINITY,
        #[inline(always)]
        |x| count += u64::from(x.abs().simd_lt(limits).to_bitmask().count_ones()),
    );
    count
}

/// Elements with a = 0, and those of them with b ≠ 0.
#[must_use]
pub fn golden_zeros(a: &[f32], b: &[f32]) -> (u64, u64) {
    dispatch!(Level::new(), s => golden_zeros_in(s, a, b))
}

#[inline(always)]
fn golden_zeros_in<S: Simd>(s: S, a: &[f32], b: &[f32]) -> (u64, u64) {
    let zero = V::splat(s, 0.0);
    let (mut zeros, mut both) = (0, 0);
    each_pair(
        s,
        a,
        b,
        (1.0, 1.0),
        #[inline(always)]
        |a, b| {
            let a = a.simd_eq(zero);
            zeros += u64::from(a.to_bitmask().count_ones());
            both += u64::from((a & b.simd_eq(zero)).to_bitmask().count_ones());
        },
    );
    (zeros, zeros - both)
}

/// Calls `f` with every vector of a block, the last one filled up with `pad`.
#[inline(always)]
pub(super) fn each<S: Simd>(s: S, x: &[f32], pad: f32, mut f: impl FnMut(V<S>)) {
    let (chunks, tail) = x.as_chunks::<LANES>();
    for x in chunks {
        f(V::from_slice(s, x));
    }
    if !tail.is_empty() {
        f(padded(s, tail, pad));
    }
}

/// The same for two blocks of one length.
#[inline(always)]
pub(super) fn each_pair<S: Simd>(s: S, a: &[f32], b: &[f32], pad: (f32, f32), mut f: impl FnMut(V<S>, V<S>)) {
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        f(V::from_slice(s, a), V::from_slice(s, b));
    }
    if !a_tail.is_empty() {
        f(padded(s, a_tail, pad.0), padded(s, b_tail, pad.1));
    }
}

#[inline(always)]
fn padded<S: Simd>(s: S, tail: &[f32], pad: f32) -> V<S> {
    let mut lanes = [pad; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    V::from_slice(s, &lanes)
}

/// The lanes' sum in `f64`, in a fixed tree.
#[inline(always)]
pub(crate) fn folded<S: Simd>(lanes: V<S>) -> f64 {
    let (low, high) = lanes.widen();
    (low + high).reduce_sum()
}

/// Order of nonnegative floats is that of their bits, and the integer units have more room.
#[inline(always)]
fn bits<S: Simd>(magnitudes: V<S>) -> u32x16<S> {
    magnitudes.bitcast()
}

#[derive(Clone, Copy)]
struct Side<S: Simd> {
    min: V<S>,
    max: V<S>,
    closest: u32x16<S>,
    sum: V<S>,
}

impl<S: Simd> Side<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        let infinity = V::splat(s, f32::INFINITY);
        Self { min: infinity, max: -infinity, closest: bits(infinity), sum: V::splat(s, 0.0) }
    }

    #[inline(always)]
    fn add(&mut self, x: V<S>) {
        self.look(x);
        self.sum += x;
    }

    #[inline(always)]
    fn look(&mut self, x: V<S>) {
        self.min = x.min(self.min);
        self.max = x.max(self.max);
        self.closest = bits(x.abs()).min(self.closest);
    }

    #[inline(always)]
    fn add_tail(&mut self, s: S, tail: &[f32]) {
        if let Some(&first) = tail.first() {
            self.look(padded(s, tail, first));
            self.sum += padded(s, tail, 0.0);
        }
    }

    #[inline(always)]
    fn extent(self) -> Extent {
        Extent {
            min: self.min.reduce_min(),
            max: self.max.reduce_max(),
            closest: f32::from_bits(self.closest.reduce_min()),
            sum: folded(self.sum),
        }
    }
}

#[derive(Clone, Copy)]
struct Pair<S: Simd> {
    dd: V<S>,
    aa: V<S>,
    ad: V<S>,
    abs: V<S>,
    max_abs: u32x16<S>,
}

impl<S: Simd> Pair<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        let zero = V::splat(s, 0.0);
        Self { dd: zero, aa: zero, ad: zero, abs: zero, max_abs: bits(zero) }
    }

    #[inline(always)]
    fn add(&mut self, a: V<S>, b: V<S>) {
        let d = b - a;
        let magnitude = d.abs();
        self.dd = d.mul_add_precise(d, self.dd);
        self.aa = a.mul_add_precise(a, self.aa);
        self.ad = a.mul_add_precise(d, self.ad);
        self.abs += magnitude;
        self.max_abs = bits(magnitude).max(self.max_abs);
    }

    #[inline(always)]
    fn sums(self) -> Sums {
        Sums {
            dd: folded(self.dd),
            aa: folded(self.aa),
            ad: folded(self.ad),
            abs: folded(self.abs),
            max_abs: f32::from_bits(self.max_abs.reduce_max()).into(),
            ..Sums::default()
        }
    }
}

#[derive(Clone, Copy)]
struct Quotients<S: Simd> {
    sum: V<S>,
    max: u32x16<S>,
}

impl<S: Simd> Quotients<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        let zero = V::splat(s, 0.0);
        Self { sum: zero, max: bits(zero) }
    }

    #[inline(always)]
    fn add(&mut self, a: V<S>, b: V<S>) {
        let quotient = (b - a).abs() / a.abs();
        self.sum += quotient;
        self.max = bits(quotient).max(self.max);
    }

    #[inline(always)]
    fn fold(self) -> (f64, f64) {
        (folded(self.sum), f32::from_bits(self.max.reduce_max()).into())
    }
}

/// Largest distance in units in the last place of `f32`, of which the other formats' units are multiples.
#[derive(Clone, Copy)]
struct Distance<S: Simd> {
    largest: u32x16<S>,
}

impl<S: Simd> Distance<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        Self { largest: u32x16::splat(s, 0) }
    }

    #[inline(always)]
    fn add(&mut self, s: S, a: V<S>, b: V<S>) {
        let distance = ulp::distance(s, (a, b), (bits(a.abs()), bits(b.abs())));
        self.largest = distance.max(self.largest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every instruction set that this processor has, without asking which one is best.
    fn levels() -> Vec<Level> {
        let best = Level::new();
        let mut levels = vec![best];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(best.as_sse2().map(Level::Sse2));
            levels.extend(best.as_sse4_2().map(Level::Sse4_2));
            levels.extend(best.as_avx2().map(Level::Avx2));
        }
        levels
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for len in [1, 15, 16, 33, 320, BLOCK] {
            let a: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
            let b: Vec<f32> = a.iter().enumerate().map(|(i, a)| a + (i as f32 * 0.71).cos() * 0.01).collect();
            let expected = format!("{:?}", survey_at(levels()[0], &a, &b));
            for level in levels() {
                assert_eq!(format!("{:?}", survey_at(level, &a, &b)), expected, "{level:?}, {len}");
                let alone = dispatch!(level, s => extent_and_squares_in(s, &a));
                assert_eq!(alone, extent_and_squares(&a), "{level:?}, {len}");
            }
        }
    }
}
