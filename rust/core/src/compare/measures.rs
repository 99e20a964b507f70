//! What is known of a pair after its one pass, and the one table of the measures' names and meanings.
//!
//! All measures are taken over the elements that are finite on both sides, unless they are about one side.
//! Complex elements are measured as their real and imaginary parts: sums, means and counts run over both,
//! indices count elements. Booleans are the numbers 0 and 1.

use serde::{Deserialize, Serialize};

use super::merge::Merged;
use crate::stats::block32::Sums;
use crate::stats::pair::{Worst, relative_l2};
use crate::stats::side::Side;

/// The measures of one pair. NaN stands for a number that does not exist, `None` for an index or count.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "COLUMNS says what each means")]
pub struct Measures {
    pub elements: u64,
    pub bitwise_equal: bool,
    pub cosine_similarity: f64,
    pub one_minus_cosine: f64,
    pub relative_l2: f64,
    pub max_absolute: Option<Worst>,
    pub mean_absolute_error: f64,
    pub max_relative: Option<Worst>,
    pub mean_relative_error: f64,
    pub golden_zero_candidate_nonzero: Option<u64>,
    pub max_ulp: Option<u64>,
    pub kl_divergence: f64,
    pub max_kl: f64,
    pub max_kl_row: Option<u64>,
    pub worst_row: Option<u64>,
    pub worst_row_relative_l2: f64,
    pub worst_channel: Option<u64>,
    pub worst_channel_relative_l2: f64,
    pub golden_rms: f64,
    pub candidate_rms: f64,
    pub golden: Option<Side>,
    pub candidate: Option<Side>,
    pub finiteness_mismatch: Option<u64>,
    pub finiteness_mismatch_index: Option<u64>,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            elements: 0,
            bitwise_equal: false,
            cosine_similarity: f64::NAN,
            one_minus_cosine: f64::NAN,
            relative_l2: f64::NAN,
            max_absolute: None,
            mean_absolute_error: f64::NAN,
            max_relative: None,
            mean_relative_error: f64::NAN,
            golden_zero_candidate_nonzero: None,
            max_ulp: None,
            kl_divergence: f64::NAN,
            max_kl: f64::NAN,
            max_kl_row: None,
            worst_row: None,
            worst_row_relative_l2: f64::NAN,
            worst_channel: None,
            worst_channel_relative_l2: f64::NAN,
            golden_rms: f64::NAN,
            candidate_rms: f64::NAN,
            golden: None,
            candidate: None,
            finiteness_mismatch: None,
            finiteness_mismatch_index: None,
        }
    }
}

impl Measures {
    /// From the merged sums of a pair with at least one element.
    pub(super) fn from_sums(merged: &Merged, elements: u64, components: u64) -> Self {
        let sums = &merged.sums;
        let per_element = |worst: Option<Worst>| worst.map(|w| Worst { index: w.index / components, ..w });
        let mut out = Self {
            elements,
            bitwise_equal: merged.same_bytes,
            golden: Some(sums.golden),
            candidate: Some(sums.candidate),
            finiteness_mismatch: Some(sums.mismatch),
            finiteness_mismatch_index: sums.mismatch_index.map(|i| i / components),
            golden_zero_candidate_nonzero: Some(sums.golden_zero_candidate_not),
            ..Self::default()
        };
        if sums.counted == 0 {
            return out;
        }
        let counted = sums.counted as f64;
        let (dd, aa, bb) = (sums.sums.dd, sums.sums.aa, sums.sums.bb);
        out.one_minus_cosine = one_minus_cosine(&sums.sums);
        out.cosine_similarity = 1.0 - out.one_minus_cosine;
        out.relative_l2 = relative_l2(dd, aa);
        out.max_absolute = per_element(sums.worst_abs);
        out.mean_absolute_error = sums.sums.abs / counted;
        out.max_relative = per_element(sums.worst_rel);
        if sums.worst_rel.is_some() {
            out.mean_relative_error = sums.sums.rel / (sums.counted - sums.golden_zero) as f64;
        }
        out.max_ulp = merged.has_ulp.then_some(u64::from(sums.max_ulp));
        out.golden_rms = (aa / counted).sqrt();
        out.candidate_rms = (bb / counted).sqrt();
        if let Some((row, value)) = merged.worst_row {
            (out.worst_row, out.worst_row_relative_l2) = (Some(row), value);
        }
        if let Some((channel, value)) = merged.worst_channel {
            (out.worst_channel, out.worst_channel_relative_l2) = (Some(channel), value);
        }
        if let Some((row, value)) = merged.max_kl {
            (out.max_kl_row, out.max_kl) = (Some(row), value);
            out.kl_divergence = merged.kl / merged.kl_rows as f64;
        }
        out
    }
}

/// 1 − cos of two vectors a, b with d = b − a.
///
/// For a small angle as (‖a‖²‖d‖² − (a·d)²) / (‖a‖‖b‖ (‖a‖‖b‖ + a·b)), which keeps the digits that
/// 1 − a·b / (‖a‖‖b‖) cancels while ‖d‖ is small beside ‖b‖; otherwise the latter, which keeps them then.
/// Two zero vectors agree; one is perpendicular to anything else.
fn one_minus_cosine(sums: &Sums) -> f64 {
    let (a, b) = (sums.aa.sqrt(), sums.bb.sqrt());
    if sums.aa == 0.0 || sums.bb == 0.0 {
        return if sums.aa == 0.0 && sums.bb == 0.0 { 0.0 } else { 1.0 };
    }
    // Scaled one by one: products of four numbers leave the range of f64 first.
    let (d, along, cosine) = (sums.dd.sqrt() / b, sums.ad / a / b, sums.ab / a / b);
    let value =
        if 4.0 * sums.dd <= sums.bb { (d - along) * (d + along) / (1.0 + cosine) } else { 1.0 - cosine };
    value.clamp(0.0, 2.0)
}

/// How a column is read from [`Measures`].
#[derive(Clone, Copy)]
pub enum Get {
    /// A real number; NaN where it does not exist.
    Float(fn(&Measures) -> f64),
    /// An index or count.
    Int(fn(&Measures) -> Option<u64>),
    /// Yes or no.
    Flag(fn(&Measures) -> bool),
}

/// A measure's name and meaning.
#[derive(Clone, Copy)]
pub struct Column {
    /// The name in reports.
    pub name: &'static str,
    /// What it is, in one line.
    pub meaning: &'static str,
    /// How to read it.
    pub get: Get,
}

const fn float(name: &'static str, meaning: &'static str, get: fn(&Measures) -> f64) -> Column {
    Column { name, meaning, get: Get::Float(get) }
}

const fn int(name: &'static str, meaning: &'static str, get: fn(&Measures) -> Option<u64>) -> Column {
    Column { name, meaning, get: Get::Int(get) }
}

fn value(worst: Option<Worst>) -> f64 {
    worst.map_or(f64::NAN, |w| w.value)
}

macro_rules! side_columns {
    ($side:ident) => {
        [
            float(concat!(stringify!($side), "_min"), "smallest finite value", |m| {
                m.$side.map_or(f64::NAN, |s| s.lowest())
            }),
            float(concat!(stringify!($side), "_max"), "largest finite value", |m| {
                m.$side.map_or(f64::NAN, |s| s.highest())
            }),
            float(concat!(stringify!($side), "_mean"), "mean of the finite values", |m| {
                m.$side.map_or(f64::NAN, |s| s.mean())
            }),
            float(
                concat!(stringify!($side), "_rms"),
                "root of the mean square over the elements finite on both sides",
                |m| paste_rms!(m, $side),
            ),
            int(concat!(stringify!($side), "_nan"), "NaN values", |m| m.$side.map(|s| s.nan)),
            int(concat!(stringify!($side), "_pos_inf"), "+Inf values", |m| m.$side.map(|s| s.pos_inf)),
            int(concat!(stringify!($side), "_neg_inf"), "−Inf values", |m| m.$side.map(|s| s.neg_inf)),
            int(concat!(stringify!($side), "_zero"), "zeros of either sign", |m| m.$side.map(|s| s.zero)),
            int(
                concat!(stringify!($side), "_subnormal"),
                "nonzero values below the dtype's smallest normal magnitude; 0 for integers",
                |m| m.$side.map(|s| s.subnormal),
            ),
            int(
                concat!(stringify!($side), "_near_max"),
                "finite values beyond 0.9 of the dtype's largest; 0 for integers",
                |m| m.$side.map(|s| s.near_max),
            ),
        ]
    };
}

macro_rules! paste_rms {
    ($m:ident, golden) => {
        $m.golden_rms
    };
    ($m:ident, candidate) => {
        $m.candidate_rms
    };
}

/// Every measure of a pair, in the order of the report.
pub static COLUMNS: [&[Column]; 4] = [&SHARED, &GOLDEN, &CANDIDATE, &FINITENESS];

static SHARED: [Column; 24] = [
    int("elements", "elements of the pair", |m| Some(m.elements)),
    Column {
        name: "bitwise_equal",
        meaning: "1 when both sides have one dtype and the same bytes",
        get: Get::Flag(|m| m.bitwise_equal),
    },
    float("cosine_similarity", "Σab / (‖a‖‖b‖); 1 when both are all zero, 0 when one is", |m| {
        m.cosine_similarity
    }),
    float(
        "one_minus_cosine",
        "1 − cosine; for small angles as (‖a‖²‖d‖² − (a·d)²) / (‖a‖‖b‖(‖a‖‖b‖ + a·b)), which does not cancel",
        |m| m.one_minus_cosine,
    ),
    float(
        "relative_l2",
        "‖d‖ / ‖a‖ with d = candidate − golden, a = golden; 0 when d is 0, infinite when only a is 0",
        |m| m.relative_l2,
    ),
    float("max_absolute_error", "largest |d|", |m| value(m.max_absolute)),
    int("max_absolute_error_index", "flat row-major index of the largest |d|, the lowest on ties", |m| {
        m.max_absolute.map(|w| w.index)
    }),
    float("golden_at_max_abs", "golden value there", |m| m.max_absolute.map_or(f64::NAN, |w| w.golden)),
    float("candidate_at_max_abs", "candidate value there", |m| {
        m.max_absolute.map_or(f64::NAN, |w| w.candidate)
    }),
    float("mean_absolute_error", "mean of |d|", |m| m.mean_absolute_error),
    float("max_relative_error", "largest |d| / |a| over the elements with a ≠ 0", |m| {
        value(m.max_relative)
    }),
    int(
        "max_relative_error_index",
        "flat row-major index of the largest |d| / |a|, the lowest on ties",
        |m| m.max_relative.map(|w| w.index),
    ),
    float("golden_at_max_rel", "golden value there", |m| m.max_relative.map_or(f64::NAN, |w| w.golden)),
    float("candidate_at_max_rel", "candidate value there", |m| {
        m.max_relative.map_or(f64::NAN, |w| w.candidate)
    }),
    float("mean_relative_error", "mean of |d| / |a| over the elements with a ≠ 0", |m| {
        m.mean_relative_error
    }),
    int(
        "golden_zero_candidate_nonzero",
        "elements with golden = 0 and candidate ≠ 0, which have no relative error",
        |m| m.golden_zero_candidate_nonzero,
    ),
    int(
        "max_ulp",
        "largest distance in units in the last place; 16- and 32-bit floats only, both rounded to the coarser",
        |m| m.max_ulp,
    ),
    float(
        "kl_divergence",
        "KL(softmax(a) ‖ softmax(b)) over the last axis, in nats: mean over rows; rows of one element give 0",
        |m| m.kl_divergence,
    ),
    float("max_kl", "largest KL of a row", |m| m.max_kl),
    int("max_kl_row", "row of the largest KL, the lowest on ties", |m| m.max_kl_row),
    int(
        "worst_row",
        "row (all axes but the last fixed) with the largest relative L2, the lowest on ties",
        |m| m.worst_row,
    ),
    float("worst_row_relative_l2", "relative L2 of that row", |m| m.worst_row_relative_l2),
    int(
        "worst_channel",
        "index of the last axis with the largest relative L2 over all rows; none when there is one row",
        |m| m.worst_channel,
    ),
    float("worst_channel_relative_l2", "relative L2 of that channel", |m| m.worst_channel_relative_l2),
];

static GOLDEN: [Column; 10] = side_columns!(golden);
static CANDIDATE: [Column; 10] = side_columns!(candidate);

static FINITENESS: [Column; 2] = [
    int(
        "finiteness_mismatch",
        "positions where one side is finite, NaN, +Inf or −Inf and the other is not the same",
        |m| m.finiteness_mismatch,
    ),
    int("finiteness_mismatch_index", "flat row-major index of the first of them", |m| {
        m.finiteness_mismatch_index
    }),
];

/// All columns, in order.
pub fn columns() -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().copied().flatten()
}
