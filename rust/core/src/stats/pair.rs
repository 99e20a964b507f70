//! Sums over a pair of tensors: added block by block, merged part by part.

use serde::{Deserialize, Serialize};

use super::block32::{self, BLOCK, Sums, Survey};
use super::block64;
use super::decode::{self, Lanes, Limits};
use super::kl;
use super::side::Side;
use super::ulp;
use crate::DType;

/// The element where a measure is largest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    /// The measure there.
    pub value: f64,
    /// Its flat row-major index, counted in components.
    pub index: u64,
    /// Golden value there.
    pub golden: f64,
    /// Candidate value there.
    pub candidate: f64,
}

/// Everything that adds up over blocks, except rows and channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairSums {
    /// Components finite on both sides.
    pub counted: u64,
    /// Sums over them; `max_abs` and `max_rel` stand in [`Self::worst_abs`] and [`Self::worst_rel`].
    pub sums: Sums,
    /// Components counted with golden = 0.
    pub golden_zero: u64,
    /// … of which the candidate is not 0.
    pub golden_zero_candidate_not: u64,
    /// Largest |candidate − golden|, at its lowest index.
    pub worst_abs: Option<Worst>,
    /// Largest |candidate − golden| / |golden| over golden ≠ 0, at its lowest index.
    pub worst_rel: Option<Worst>,
    /// Largest distance in units in the last place.
    pub max_ulp: u32,
    /// The golden side.
    pub golden: Side,
    /// The candidate side.
    pub candidate: Side,
    /// Components whose class (finite, NaN, +Inf, −Inf) differs.
    pub mismatch: u64,
    /// The lowest index among them.
    pub mismatch_index: Option<u64>,
}

impl PairSums {
    /// Adds the sums of a later part. On equal maxima the lower index stays.
    pub fn merge(&mut self, other: &Self) {
        self.counted += other.counted;
        self.add(&other.sums);
        self.golden_zero += other.golden_zero;
        self.golden_zero_candidate_not += other.golden_zero_candidate_not;
        for (mine, theirs) in [(&mut self.worst_abs, other.worst_abs), (&mut self.worst_rel, other.worst_rel)]
        {
            if let Some(theirs) = theirs {
                keep(mine, theirs);
            }
        }
        self.max_ulp = self.max_ulp.max(other.max_ulp);
        self.golden.merge(&other.golden);
        self.candidate.merge(&other.candidate);
        self.mismatch += other.mismatch;
        self.mismatch_index = [self.mismatch_index, other.mismatch_index].into_iter().flatten().min();
    }

    fn add(&mut self, sums: &Sums) {
        self.sums.dd += sums.dd;
        self.sums.aa += sums.aa;
        self.sums.bb += sums.bb;
        self.sums.ab += sums.ab;
        self.sums.ad += sums.ad;
        self.sums.abs += sums.abs;
        self.sums.rel += sums.rel;
    }
}

fn keep(best: &mut Option<Worst>, new: Worst) {
    let better = best.is_none_or(|b| {
        new.value > b.value || (new.value.total_cmp(&b.value).is_eq() && new.index < b.index)
    });
    if better {
        *best = Some(new);
    }
}

/// Per-row sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowSums {
    /// Σ d².
    pub dd: f64,
    /// Σ golden².
    pub aa: f64,
    /// The softmax divergence.
    pub kl: kl::Row,
}

impl RowSums {
    /// Adds a later piece of the same row.
    pub fn merge(&mut self, other: &Self) {
        self.dd += other.dd;
        self.aa += other.aa;
        self.kl.merge(&other.kl);
    }
}

/// √(Σ d² / Σ golden²); 0 when both are 0, infinity when only golden is 0.
#[must_use]
pub fn relative_l2(dd: f64, aa: f64) -> f64 {
    if dd == 0.0 { 0.0 } else { (dd / aa).sqrt() }
}

/// How a pair of dtypes is measured.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    golden: DType,
    candidate: DType,
    golden_limits: Limits,
    candidate_limits: Limits,
    lanes: Lanes,
    ulp: Option<ulp::Format>,
    kl: bool,
}

impl Recipe {
    /// The recipe for two dtypes, both complex or neither; `None` when one has no numeric meaning or only one
    /// is complex. `kl` asks for softmax divergences (complex rows have none).
    #[must_use]
    pub fn new(golden: DType, candidate: DType, kl: bool) -> Option<Self> {
        if decode::components(golden) != decode::components(candidate) {
            return None;
        }
        let (part_a, part_b) = (decode::component(golden), decode::component(candidate));
        let lanes = match (decode::lanes(part_a), decode::lanes(part_b)) {
            (Lanes::None, _) | (_, Lanes::None) => return None,
            (Lanes::F32, Lanes::F32) => Lanes::F32,
            _ => Lanes::F64,
        };
        Some(Self {
            golden: part_a,
            candidate: part_b,
            golden_limits: decode::limits(part_a),
            candidate_limits: decode::limits(part_b),
            lanes,
            ulp: ulp::common_format(part_a, part_b),
            kl: kl && decode::components(golden) == 1,
        })
    }

    /// Whether a ULP distance exists.
    #[must_use]
    pub fn has_ulp(&self) -> bool {
        self.ulp.is_some()
    }

    /// Whether softmax divergences are taken.
    #[must_use]
    pub fn has_kl(&self) -> bool {
        self.kl
    }

    /// Bytes per component of golden and candidate.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.golden.size(), self.candidate.size())
    }
}

/// Where a block's rows and columns are added up. One element per column of the block.
#[derive(Debug)]
pub struct Channels<'a> {
    /// Σ d² and Σ golden² of ordinary blocks.
    pub narrow: (&'a mut [f32], &'a mut [f32]),
    /// The same of blocks that need `f64`.
    pub wide: (&'a mut [f64], &'a mut [f64]),
}

/// Working memory of the block kernels, one per thread.
#[derive(Debug)]
pub struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    wide_a: Vec<f64>,
    wide_b: Vec<f64>,
    wide_d: Vec<f64>,
    counted: Vec<bool>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            a: vec![0.0; BLOCK],
            b: vec![0.0; BLOCK],
            wide_a: vec![0.0; BLOCK],
            wide_b: vec![0.0; BLOCK],
            wide_d: vec![0.0; BLOCK],
            counted: vec![true; BLOCK],
        }
    }
}

/// A block: whole short rows, or a piece of one row.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Golden bytes.
    pub golden: &'a [u8],
    /// Candidate bytes.
    pub candidate: &'a [u8],
    /// Flat index of the first component.
    pub index: u64,
    /// Components per row within the block; all of them for a piece of one row.
    pub width: usize,
}

/// Adds one block to the sums, its rows to `rows` (one element per row of the block) and its columns to
/// `channels`.
pub fn add_block(
    recipe: &Recipe,
    block: Block<'_>,
    total: &mut PairSums,
    rows: &mut [RowSums],
    channels: Option<Channels<'_>>,
    scratch: &mut Scratch,
) {
    match recipe.lanes {
        Lanes::F32 => add_block32(recipe, block, total, rows, channels, scratch),
        Lanes::F64 | Lanes::None => add_block64(recipe, block, total, rows, channels, scratch),
    }
}

fn add_block32(
    recipe: &Recipe,
    block: Block<'_>,
    total: &mut PairSums,
    rows: &mut [RowSums],
    channels: Option<Channels<'_>>,
    scratch: &mut Scratch,
) {
    let len = block.golden.len() / recipe.golden.size();
    let Scratch { a: a_space, b: b_space, wide_a, wide_b, wide_d, counted } = scratch;
    let a = lane_values(recipe.golden, block.golden, &mut a_space[..len]);
    let b = lane_values(recipe.candidate, block.candidate, &mut b_space[..len]);
    let mut survey = block32::survey(a, b);
    let all_finite = survey.golden.sum.is_finite() && survey.candidate.sum.is_finite();
    let (mut a_closest, mut b_closest);
    let (a, b): (&[f32], &[f32]) = if all_finite {
        a_closest = total.golden.add_finite(a, &survey.golden, recipe.golden_limits);
        b_closest = total.candidate.add_finite(b, &survey.candidate, recipe.candidate_limits);
        total.counted += len as u64;
        (a, b)
    } else {
        total.golden.add_any(a.iter().map(|&x| f64::from(x)), recipe.golden_limits);
        total.candidate.add_any(b.iter().map(|&x| f64::from(x)), recipe.candidate_limits);
        let (mut kept_a, mut kept_b) = ([0f32; BLOCK], [0f32; BLOCK]);
        for i in 0..len {
            count_class(total, block.index + i as u64, a[i], b[i]);
            counted[i] = a[i].is_finite() && b[i].is_finite();
            if counted[i] {
                total.counted += 1;
                (kept_a[i], kept_b[i]) = (a[i], b[i]);
            }
        }
        a_space[..len].copy_from_slice(&kept_a[..len]);
        b_space[..len].copy_from_slice(&kept_b[..len]);
        let (a, b) = (&a_space[..len], &b_space[..len]);
        survey = block32::survey(a, b);
        (a_closest, b_closest) = (block32::zeros(a).1, block32::zeros(b).1);
        (a, b)
    };
    let Survey { golden: a_extent, candidate: b_extent, mut sums, ulp } = survey;
    let counted = (!all_finite).then_some(&counted[..len]);
    let has_zeros = a_extent.closest == 0.0;
    if has_zeros {
        let (mut zeros, candidate_not) = block32::golden_zeros(a, b);
        if let Some(counted) = counted {
            zeros -= counted.iter().filter(|c| !**c).count() as u64;
        }
        total.golden_zero += zeros;
        total.golden_zero_candidate_not += candidate_not;
    }
    if a_closest == f32::INFINITY {
        a_closest = 1.0;
    }
    if b_closest == f32::INFINITY {
        b_closest = 1.0;
    }
    let tame = a_extent.farthest().max(b_extent.farthest()) <= block32::LARGEST
        && a_closest.min(b_closest) >= block32::SMALLEST
        && (sums.max_abs == 0.0 || sums.max_abs >= f64::from(block32::SMALLEST_DIFFERENCE));
    if tame {
        if has_zeros {
            (sums.rel, sums.max_rel) = block32::quotients(a, b);
        }
        sums = complete(sums, a, b);
        add_rows32(a, b, block.width, &sums, rows, channels);
    } else {
        for i in 0..len {
            (wide_a[i], wide_b[i]) = (f64::from(a[i]), f64::from(b[i]));
            wide_d[i] = wide_b[i] - wide_a[i];
        }
        let wide = (&wide_a[..len], &wide_b[..len], &wide_d[..len]);
        sums = sums64(wide, block.width, rows, channels.map(|c| c.wide));
    }
    total.add(&sums);
    let exact = |i: usize| (f64::from(a[i]), f64::from(b[i]), f64::from(b[i]) - f64::from(a[i]));
    note_worst(total, &sums, block.index, len, counted, exact);
    if let Some(format) = recipe.ulp {
        total.max_ulp = match format {
            ulp::Format::Float32 => total.max_ulp.max(ulp),
            _ if ulp::at_most(format, ulp) <= total.max_ulp => total.max_ulp,
            _ => total.max_ulp.max(ulp::max_distance(format, a, b)),
        };
    }
    if recipe.kl {
        let (golden, candidate) = (f64::from(a_extent.max), f64::from(b_extent.max));
        let tops = kl::Tops { golden, candidate, difference: sums.max_abs };
        add_kl32(a, b, block.width, rows, tops, counted);
    }
}

/// Up to this Σd² over the smaller of Σa² and Σb², sums of `f32` products give the cosine its digits: what
/// they are off by is this share of a rounding of 1. Beyond, the products are taken in `f64`.
const NEAR: f64 = 1.0 / 64.0;

/// Adds Σb² and Σab to the sums of a block within the range of `f32`.
fn complete(sums: Sums, a: &[f32], b: &[f32]) -> Sums {
    let Sums { dd, aa, ad, .. } = sums;
    let bb = aa + 2.0 * ad + dd;
    if dd <= NEAR * aa.min(bb) {
        return Sums { bb, ab: aa + ad, ..sums };
    }
    let Sums { dd, aa, bb, ab, ad, .. } = block32::squares(a, b);
    Sums { dd, aa, bb, ab, ad, ..sums }
}

fn add_rows32(
    a: &[f32],
    b: &[f32],
    width: usize,
    sums: &Sums,
    rows: &mut [RowSums],
    mut channels: Option<Channels<'_>>,
) {
    if let [row] = rows {
        row.dd += sums.dd;
        row.aa += sums.aa;
        if let Some(channels) = channels {
            block32::add_channels(a, b, channels.narrow.0, channels.narrow.1);
        }
        return;
    }
    for ((a, b), row) in a.chunks(width).zip(b.chunks(width)).zip(rows) {
        let (dd, aa) = block32::row_sums(a, b);
        row.dd += dd;
        row.aa += aa;
        match &mut channels {
            Some(channels) if width >= block32::LANES => {
                block32::add_channels(a, b, channels.narrow.0, channels.narrow.1);
            }
            // A block holds more of the shortest rows than `f32` sums may take.
            Some(Channels { wide: (dd, aa), .. }) => {
                for ((dd, aa), (&a, &b)) in dd.iter_mut().zip(aa.iter_mut()).zip(a.iter().zip(b)) {
                    let (a, d) = (f64::from(a), f64::from(b - a));
                    *dd += d * d;
                    *aa += a * a;
                }
            }
            None => {}
        }
    }
}

fn lane_values<'a>(dtype: DType, bytes: &'a [u8], space: &'a mut [f32]) -> &'a [f32] {
    if dtype == DType::Float32 {
        return bytemuck::cast_slice(bytes);
    }
    decode::to_f32(dtype, bytes, space);
    space
}

fn add_kl32(
    a: &[f32],
    b: &[f32],
    width: usize,
    rows: &mut [RowSums],
    tops: kl::Tops,
    counted: Option<&[bool]>,
) {
    if width <= 1 && rows.len() > 1 {
        rows.iter_mut()
            .enumerate()
            .for_each(|(i, row)| row.kl.count += u64::from(counted.is_none_or(|c| c[i])));
        return;
    }
    if let ([row], None) = (&mut *rows, counted)
        && row.kl.fits(tops)
    {
        row.kl.add(a, b, a.len() as u64, tops);
        return;
    }
    let (mut kept_a, mut kept_b) = ([0f32; BLOCK], [0f32; BLOCK]);
    for (r, row) in rows.iter_mut().enumerate() {
        let at = r * width;
        let (a, b) = (&a[at..at + width.min(a.len() - at)], &b[at..at + width.min(b.len() - at)]);
        let mut count = a.len() as u64;
        let (mut row_a, mut row_b) = (a, b);
        let counts = |i: usize| counted.is_none_or(|c| c[at + i]);
        if counted.is_some() {
            for i in 0..a.len() {
                (kept_a[i], kept_b[i]) = if counts(i) { (a[i], b[i]) } else { (kl::OUT, kl::OUT) };
            }
            count = (0..a.len()).filter(|&i| counts(i)).count() as u64;
            (row_a, row_b) = (&kept_a[..a.len()], &kept_b[..a.len()]);
        }
        let (golden, candidate, difference) = block32::row_extremes(row_a, row_b);
        let tops =
            kl::Tops { golden: golden.into(), candidate: candidate.into(), difference: difference.into() };
        if row.kl.fits(tops) {
            row.kl.add(row_a, row_b, count, tops);
        } else {
            let wide_a: Vec<f64> = a.iter().map(|&x| x.into()).collect();
            let wide_b: Vec<f64> = b.iter().map(|&x| x.into()).collect();
            add_row_kl64(row, &wide_a, &wide_b, counts);
        }
    }
}

fn add_row_kl64(row: &mut RowSums, a: &[f64], b: &[f64], counts: impl Fn(usize) -> bool) {
    let (mut tops, mut count) =
        (kl::Tops { golden: f64::NEG_INFINITY, candidate: f64::NEG_INFINITY, difference: 0.0 }, 0);
    for i in (0..a.len()).filter(|&i| counts(i)) {
        tops.golden = tops.golden.max(a[i]);
        tops.candidate = tops.candidate.max(b[i]);
        tops.difference = tops.difference.max((b[i] - a[i]).abs());
        count += 1;
    }
    row.kl.add_f64(a, b, counts, count, tops);
}

fn add_block64(
    recipe: &Recipe,
    block: Block<'_>,
    total: &mut PairSums,
    rows: &mut [RowSums],
    channels: Option<Channels<'_>>,
    scratch: &mut Scratch,
) {
    let len = block.golden.len() / recipe.golden.size();
    let Scratch { wide_a, wide_b, wide_d, counted, .. } = scratch;
    let (a, b, d) = (&mut wide_a[..len], &mut wide_b[..len], &mut wide_d[..len]);
    let counted = &mut counted[..len];
    decode::to_f64(recipe.golden, block.golden, a);
    decode::to_f64(recipe.candidate, block.candidate, b);
    total.golden.add_any(a.iter().copied(), recipe.golden_limits);
    total.candidate.add_any(b.iter().copied(), recipe.candidate_limits);
    if decode::wide_integers(recipe.golden, recipe.candidate) {
        decode::integer_difference((recipe.golden, block.golden), (recipe.candidate, block.candidate), d);
    } else {
        for i in 0..len {
            d[i] = b[i] - a[i];
        }
    }
    for i in 0..len {
        count_class(total, block.index + i as u64, a[i], b[i]);
        counted[i] = a[i].is_finite() && b[i].is_finite();
        if counted[i] {
            total.counted += 1;
            total.golden_zero += u64::from(a[i] == 0.0);
            total.golden_zero_candidate_not += u64::from(a[i] == 0.0 && d[i] != 0.0);
        } else {
            (a[i], b[i], d[i]) = (0.0, 0.0, 0.0);
        }
    }
    let (a, b, d, counted) = (&*a, &*b, &*d, &*counted);
    let sums = sums64((a, b, d), block.width, rows, channels.map(|c| c.wide));
    total.add(&sums);
    note_worst(total, &sums, block.index, len, Some(counted), |i| (a[i], b[i], d[i]));
    if recipe.kl {
        for (r, row) in rows.iter_mut().enumerate() {
            let at = r * block.width;
            let to = len.min(at + block.width);
            add_row_kl64(row, &a[at..to], &b[at..to], |i| counted[at + i]);
        }
    }
}

fn sums64(
    (a, b, d): (&[f64], &[f64], &[f64]),
    width: usize,
    rows: &mut [RowSums],
    mut channels: Option<(&mut [f64], &mut [f64])>,
) -> Sums {
    let mut total = Sums::default();
    for (r, row) in rows.iter_mut().enumerate() {
        let (from, to) = (r * width, a.len().min((r + 1) * width));
        let sums = block64::sums(&a[from..to], &b[from..to], &d[from..to]);
        if let Some((dd, aa)) = &mut channels {
            block64::add_channels(&a[from..to], &d[from..to], dd, aa);
        }
        row.dd += sums.dd;
        row.aa += sums.aa;
        total.dd += sums.dd;
        total.aa += sums.aa;
        total.bb += sums.bb;
        total.ab += sums.ab;
        total.ad += sums.ad;
        total.abs += sums.abs;
        total.rel += sums.rel;
        total.max_abs = total.max_abs.max(sums.max_abs);
        total.max_rel = total.max_rel.max(sums.max_rel);
    }
    total
}

/// Looks for the worst elements of a block that may beat those so far. Maxima taken in `f32` are within this
/// factor of the exact ones.
const ROUNDING: f64 = 1.0 + 1e-6;

fn note_worst(
    total: &mut PairSums,
    sums: &Sums,
    index: u64,
    len: usize,
    counted: Option<&[bool]>,
    exact: impl Fn(usize) -> (f64, f64, f64),
) {
    let beats = |best: &Option<Worst>, value: f64| {
        best.is_none_or(|b| value * ROUNDING > b.value || (index < b.index && value * ROUNDING >= b.value))
    };
    if beats(&total.worst_abs, sums.max_abs) {
        for i in (0..len).filter(|&i| counted.is_none_or(|c| c[i])) {
            let (golden, candidate, d) = exact(i);
            keep(&mut total.worst_abs, Worst { value: d.abs(), index: index + i as u64, golden, candidate });
        }
    }
    if beats(&total.worst_rel, sums.max_rel) {
        for i in (0..len).filter(|&i| counted.is_none_or(|c| c[i])) {
            let (golden, candidate, d) = exact(i);
            if golden != 0.0 {
                let value = d.abs() / golden.abs();
                keep(&mut total.worst_rel, Worst { value, index: index + i as u64, golden, candidate });
            }
        }
    }
}

fn count_class(total: &mut PairSums, index: u64, a: impl Into<f64>, b: impl Into<f64>) {
    let class = |x: f64| {
        if x.is_nan() {
            1
        } else if x == f64::INFINITY {
            2
        } else {
            3 * u8::from(x == f64::NEG_INFINITY)
        }
    };
    if class(a.into()) != class(b.into()) {
        total.mismatch += 1;
        total.mismatch_index = Some(total.mismatch_index.map_or(index, |m| m.min(index)));
    }
}
