//! Passes over one block of at most [`BLOCK`] finite `f32` values that lies in the first-level cache.
//!
//! Plain arrays of [`LANES`] accumulators, compiled for several instruction sets and picked at run time.
//! Lane `i % LANES` takes element `i` whatever the instruction set, multiplications and additions are never
//! fused, and lanes are folded in a fixed tree: the same bits everywhere. A lane adds at most
//! `BLOCK / LANES` = 32 terms in `f32` before the sums go on in `f64`.

use multiversion::multiversion;

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

type Acc = [f32; LANES];

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

/// Extremes and sum of a block.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn extent(x: &[f32]) -> Extent {
    let mut min = [f32::INFINITY; LANES];
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut closest = [f32::INFINITY; LANES];
    let mut sum = [0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            min[l] = lesser(x[l], min[l]);
            max[l] = greater(x[l], max[l]);
            closest[l] = lesser(x[l].abs(), closest[l]);
            sum[l] += x[l];
        }
    }
    for (l, &x) in tail.iter().enumerate() {
        min[l] = lesser(x, min[l]);
        max[l] = greater(x, max[l]);
        closest[l] = lesser(x.abs(), closest[l]);
        sum[l] += x;
    }
    Extent {
        min: fold(min, lesser),
        max: fold(max, greater),
        closest: fold(closest, lesser),
        sum: total(&sum),
    }
}

/// Zeros of a block, and its smallest nonzero magnitude (infinity when there is none).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn zeros(x: &[f32]) -> (u64, f32) {
    let mut count = 0u32;
    let mut closest = [f32::INFINITY; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            count += u32::from(x[l] == 0.0);
            let magnitude = if x[l] == 0.0 { f32::INFINITY } else { x[l].abs() };
            closest[l] = lesser(magnitude, closest[l]);
        }
    }
    let mut least = fold(closest, lesser);
    for &x in tail {
        count += u32::from(x == 0.0);
        if x != 0.0 {
            least = lesser(x.abs(), least);
        }
    }
    (u64::from(count), least)
}

/// How many magnitudes are below `limit`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn count_below(x: &[f32], limit: f32) -> u64 {
    u64::from(x.iter().map(|x| u32::from(x.abs() < limit)).sum::<u32>())
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
    /// Σ |d|.
    pub abs: f64,
    /// Largest |d|.
    pub max_abs: f64,
    /// Σ |d / a| over a ≠ 0.
    pub rel: f64,
    /// Largest |d / a| over a ≠ 0.
    pub max_rel: f64,
}

/// Sums over a pair of blocks within the magnitudes above.
///
/// With `channels`, Σ d² and Σ a² of every column are added to its two slices, one element per element of the
/// block. `zeros` tells that the golden block holds zeros, whose quotients are left out.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn sums(a: &[f32], b: &[f32], zeros: bool, channels: Option<(&mut [f32], &mut [f32])>) -> Sums {
    match (zeros, channels) {
        (false, None) => sums_of::<false, false>(a, b, &mut [], &mut []),
        (true, None) => sums_of::<true, false>(a, b, &mut [], &mut []),
        (false, Some((dd, aa))) => sums_of::<false, true>(a, b, dd, aa),
        (true, Some((dd, aa))) => sums_of::<true, true>(a, b, dd, aa),
    }
}

#[inline(always)]
fn sums_of<const ZEROS: bool, const CHANNELS: bool>(
    a: &[f32],
    b: &[f32],
    channel_dd: &mut [f32],
    channel_aa: &mut [f32],
) -> Sums {
    let mut acc = [[0f32; LANES]; 8];
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    let (dd_chunks, dd_tail) = channel_dd.as_chunks_mut::<LANES>();
    let (aa_chunks, aa_tail) = channel_aa.as_chunks_mut::<LANES>();
    for (i, (a, b)) in a_chunks.iter().zip(b_chunks).enumerate() {
        let (mut dd, mut aa) = ([0f32; LANES], [0f32; LANES]);
        for l in 0..LANES {
            (dd[l], aa[l]) = step::<ZEROS>(&mut acc, l, a[l], b[l]);
        }
        if CHANNELS {
            for l in 0..LANES {
                dd_chunks[i][l] += dd[l];
                aa_chunks[i][l] += aa[l];
            }
        }
    }
    for (l, (&a, &b)) in a_tail.iter().zip(b_tail).enumerate() {
        let (dd, aa) = step::<ZEROS>(&mut acc, l, a, b);
        if CHANNELS {
            dd_tail[l] += dd;
            aa_tail[l] += aa;
        }
    }
    Sums {
        dd: total(&acc[0]),
        aa: total(&acc[1]),
        bb: total(&acc[2]),
        abs: total(&acc[3]),
        max_abs: f64::from(fold(acc[4], greater)),
        rel: total(&acc[5]),
        max_rel: f64::from(fold(acc[6], greater)),
        ab: total(&acc[7]),
    }
}

#[inline(always)]
fn step<const ZEROS: bool>(acc: &mut [Acc; 8], l: usize, a: f32, b: f32) -> (f32, f32) {
    let d = b - a;
    let (magnitude, dd, aa) = (d.abs(), d * d, a * a);
    let quotient = magnitude / a.abs();
    let rel = if ZEROS && a == 0.0 { 0.0 } else { quotient };
    acc[0][l] += dd;
    acc[1][l] += aa;
    acc[2][l] += b * b;
    acc[3][l] += magnitude;
    acc[4][l] = greater(magnitude, acc[4][l]);
    acc[5][l] += rel;
    acc[6][l] = greater(rel, acc[6][l]);
    acc[7][l] += a * b;
    (dd, aa)
}

/// Σ d² and Σ a² of a short row, which are also added to its channels when there are any.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn row_sums(a: &[f32], b: &[f32], channels: Option<(&mut [f32], &mut [f32])>) -> (f64, f64) {
    let mut acc = [[0f32; LANES]; 2];
    let lanes = |acc: &mut [Acc; 2], l: usize, a: f32, b: f32| {
        let d = b - a;
        acc[0][l] += d * d;
        acc[1][l] += a * a;
    };
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for l in 0..LANES {
            lanes(&mut acc, l, a[l], b[l]);
        }
    }
    for (l, (&a, &b)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes(&mut acc, l, a, b);
    }
    if let Some((dd, aa)) = channels {
        for ((dd, aa), (&a, &b)) in dd.iter_mut().zip(aa).zip(a.iter().zip(b)) {
            let d = b - a;
            *dd += d * d;
            *aa += a * a;
        }
    }
    (total(&acc[0]), total(&acc[1]))
}

/// Largest value, largest |b - a| and largest value of the other side, of a short row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn row_extremes(a: &[f32], b: &[f32]) -> (f32, f32, f32) {
    let mut acc = [[f32::NEG_INFINITY; LANES]; 3];
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for l in 0..LANES {
            acc[0][l] = greater(a[l], acc[0][l]);
            acc[1][l] = greater(b[l], acc[1][l]);
            acc[2][l] = greater((b[l] - a[l]).abs(), acc[2][l]);
        }
    }
    for (l, (&a, &b)) in a_tail.iter().zip(b_tail).enumerate() {
        acc[0][l] = greater(a, acc[0][l]);
        acc[1][l] = greater(b, acc[1][l]);
        acc[2][l] = greater((b - a).abs(), acc[2][l]);
    }
    (fold(acc[0], greater), fold(acc[1], greater), fold(acc[2], greater))
}

/// `x < y ? x : y`, one instruction everywhere; a NaN in `x` is passed over.
#[inline(always)]
#[must_use]
pub fn lesser(x: f32, y: f32) -> f32 {
    if x < y { x } else { y }
}

/// `x > y ? x : y`, one instruction everywhere; a NaN in `x` is passed over.
#[inline(always)]
#[must_use]
pub fn greater(x: f32, y: f32) -> f32 {
    if x > y { x } else { y }
}

#[inline(always)]
fn fold(mut acc: Acc, better: fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            acc[l] = better(acc[l + width], acc[l]);
        }
    }
    acc[0]
}

/// The lanes' sum in `f64`, in a fixed tree.
#[inline(always)]
#[must_use]
pub fn total(acc: &[f32; LANES]) -> f64 {
    let mut wide = acc.map(f64::from);
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            wide[l] += wide[l + width];
        }
    }
    wide[0]
}
