//! The engine against a plain reading of the definitions in `f64`, on special values and forced edges.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::{Column, Get, Journal, Measures, Options, Progress, Row, Sizes, columns, run};
use crate::{DType, Storage, Tensor, TensorInfo};

const TINY: Sizes = Sizes { block: 16, chunk: 32, segment: 48, part: 96 };

fn tensor(dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor {
        info: TensorInfo::new(dtype, shape.to_vec()),
        strides: None,
        first: 0,
        storage: Storage::Memory(bytes.into()),
        notes: Vec::new(),
    }
}

fn f32s(shape: &[u64], values: &[f32]) -> Tensor {
    tensor(DType::Float32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn bf16s(shape: &[u64], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    tensor(DType::BFloat16, shape, bytes)
}

fn i64s(shape: &[u64], values: &[i64]) -> Tensor {
    tensor(DType::Int64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn compare_with(golden: &Tensor, candidate: &Tensor, options: &Options) -> Row {
    let open = |_: usize| (Ok(golden.clone()), Ok(candidate.clone()));
    run(1, &open, options, None, &mut |_| ControlFlow::Continue(())).unwrap().remove(0)
}

fn compare(golden: &Tensor, candidate: &Tensor) -> Measures {
    let row = compare_with(golden, candidate, &Options::default());
    assert_eq!(row.reason, None);
    row.measures
}

/// Every measure as text, so that rows can be compared to the last bit.
fn spell(measures: &Measures) -> String {
    columns()
        .map(|Column { name, get, .. }| match get {
            Get::Float(get) => format!("{name}={:?}\n", get(measures).to_bits()),
            Get::Int(get) => format!("{name}={:?}\n", get(measures)),
            Get::Flag(get) => format!("{name}={:?}\n", get(measures)),
        })
        .collect()
}

fn close(got: f64, expected: f64, tolerance: f64) -> bool {
    (got.is_nan() && expected.is_nan())
        || got.to_bits() == expected.to_bits()
        || (got - expected).abs() <= tolerance * expected.abs()
}

/// The definitions, read plainly.
#[allow(clippy::too_many_lines, reason = "one definition after the other")]
fn check(measures: &Measures, cols: usize, a: &[f64], b: &[f64]) -> Result<(), TestCaseError> {
    let finite: Vec<usize> = (0..a.len()).filter(|&i| a[i].is_finite() && b[i].is_finite()).collect();
    let sum = |f: &dyn Fn(usize) -> f64| finite.iter().map(|&i| f(i)).sum::<f64>();
    let (dd, aa, bb) = (sum(&|i| (b[i] - a[i]).powi(2)), sum(&|i| a[i] * a[i]), sum(&|i| b[i] * b[i]));
    let norm = |dd: f64, aa: f64| if dd == 0.0 { 0.0 } else { (dd / aa).sqrt() };
    macro_rules! near {
        ($got:expr, $expected:expr, $tolerance:expr) => {
            let (got, expected) = ($got, $expected);
            prop_assert!(
                close(got, expected, $tolerance),
                "{}: {:e} instead of {:e}",
                stringify!($got),
                got,
                expected
            );
        };
    }
    if finite.is_empty() {
        prop_assert!(measures.relative_l2.is_nan());
        return Ok(());
    }
    let n = finite.len() as f64;
    near!(measures.relative_l2, norm(dd, aa), 3e-6);
    near!(measures.mean_absolute_error, sum(&|i| (b[i] - a[i]).abs()) / n, 3e-6);
    near!(measures.golden_rms, (aa / n).sqrt(), 3e-6);
    near!(measures.candidate_rms, (bb / n).sqrt(), 3e-6);
    let first_max = |f: &dyn Fn(usize) -> f64| {
        finite.iter().copied().filter(|&i| !f(i).is_nan()).fold(None, |best: Option<usize>, i| {
            if best.is_none_or(|j| f(i) > f(j)) { Some(i) } else { best }
        })
    };
    let d = |i: usize| (b[i] - a[i]).abs();
    let worst = first_max(&d).unwrap();
    prop_assert_eq!(measures.max_absolute.unwrap().index, worst as u64);
    near!(measures.max_absolute.unwrap().value, d(worst), 0.0);
    near!(measures.max_absolute.unwrap().golden, a[worst], 0.0);
    near!(measures.max_absolute.unwrap().candidate, b[worst], 0.0);
    let rel = |i: usize| if a[i] == 0.0 { f64::NAN } else { d(i) / a[i].abs() };
    match first_max(&rel) {
        None => prop_assert!(measures.max_relative.is_none() && measures.mean_relative_error.is_nan()),
        Some(worst) => {
            prop_assert_eq!(measures.max_relative.unwrap().index, worst as u64);
            near!(measures.max_relative.unwrap().value, rel(worst), 0.0);
            let nonzero: Vec<f64> = finite.iter().map(|&i| rel(i)).filter(|r| !r.is_nan()).collect();
            near!(measures.mean_relative_error, nonzero.iter().sum::<f64>() / nonzero.len() as f64, 3e-6);
        }
    }
    let zero_not = finite.iter().filter(|&&i| a[i] == 0.0 && b[i] != 0.0).count() as u64;
    prop_assert_eq!(measures.golden_zero_candidate_nonzero, Some(zero_not));
    if aa > 0.0 && bb > 0.0 {
        let cos = sum(&|i| a[i] / aa.sqrt() * (b[i] / bb.sqrt()));
        prop_assert!((measures.cosine_similarity - cos).abs() < 3e-6, "{} {cos}", measures.cosine_similarity);
    }
    for (side, x) in [(measures.golden.unwrap(), a), (measures.candidate.unwrap(), b)] {
        let own: Vec<f64> = x.iter().copied().filter(|x| x.is_finite()).collect();
        near!(side.lowest(), own.iter().copied().fold(f64::INFINITY, f64::min), 0.0);
        near!(side.highest(), own.iter().copied().fold(f64::NEG_INFINITY, f64::max), 0.0);
        let magnitude = own.iter().map(|x| x.abs()).sum::<f64>() / own.len() as f64;
        prop_assert!((side.mean() - own.iter().sum::<f64>() / own.len() as f64).abs() <= 3e-6 * magnitude);
        prop_assert_eq!(side.nan, x.iter().filter(|x| x.is_nan()).count() as u64);
        prop_assert_eq!(side.pos_inf, x.iter().filter(|&&x| x == f64::INFINITY).count() as u64);
        prop_assert_eq!(side.neg_inf, x.iter().filter(|&&x| x == f64::NEG_INFINITY).count() as u64);
        prop_assert_eq!(side.zero, x.iter().filter(|&&x| x == 0.0).count() as u64);
        let tiny = f64::from(f32::MIN_POSITIVE);
        prop_assert_eq!(side.subnormal, own.iter().filter(|x| **x != 0.0 && x.abs() < tiny).count() as u64);
    }
    let class = |x: f64| (x.is_finite(), x.is_nan(), x > 0.0 && x.is_infinite());
    let differ: Vec<usize> = (0..a.len()).filter(|&i| class(a[i]) != class(b[i])).collect();
    prop_assert_eq!(measures.finiteness_mismatch, Some(differ.len() as u64));
    prop_assert_eq!(measures.finiteness_mismatch_index, differ.first().map(|&i| i as u64));
    let group_worst = |groups: &[Vec<usize>]| {
        let error = |g: &Vec<usize>| {
            let s = |f: &dyn Fn(usize) -> f64| g.iter().map(|&i| f(i)).sum::<f64>();
            norm(s(&|i| (b[i] - a[i]).powi(2)), s(&|i| a[i] * a[i]))
        };
        groups.iter().map(error).fold(f64::NEG_INFINITY, f64::max)
    };
    let rows: Vec<Vec<usize>> =
        (0..a.len() / cols).map(|r| finite.iter().copied().filter(|i| i / cols == r).collect()).collect();
    near!(measures.worst_row_relative_l2, group_worst(&rows), 3e-6);
    if rows.len() > 1 {
        let channels: Vec<Vec<usize>> =
            (0..cols).map(|c| finite.iter().copied().filter(|i| i % cols == c).collect()).collect();
        let expected = group_worst(&channels);
        // Differences below 2⁻⁵⁸ keep only some of their digits in the channels.
        if finite.iter().all(|&i| d(i) == 0.0 || d(i) > 1e-17) {
            near!(measures.worst_channel_relative_l2, expected, 3e-6);
        }
    } else {
        prop_assert!(measures.worst_channel.is_none());
    }
    let divergence = |row: &Vec<usize>| {
        let log_softmax = |x: &[f64]| {
            let top = row.iter().map(|&i| x[i]).fold(f64::NEG_INFINITY, f64::max);
            let log_sum = row.iter().map(|&i| (x[i] - top).exp()).sum::<f64>().ln();
            row.iter().map(|&i| (x[i] - top) - log_sum).collect::<Vec<_>>()
        };
        let terms = log_softmax(a).into_iter().zip(log_softmax(b));
        terms.map(|(p, q)| if p.exp() == 0.0 { 0.0 } else { p.exp() * (p - q) }).sum::<f64>().max(0.0)
    };
    let kls: Vec<f64> = rows.iter().filter(|r| !r.is_empty()).map(divergence).collect();
    let most = kls.iter().copied().fold(0.0, f64::max);
    let scale = finite.iter().fold(0f64, |m, &i| m.max(d(i)));
    let slack = 2e-6 * most + 1e-6 * scale.min(1.0) + 1e-12;
    prop_assert!((measures.max_kl - most).abs() <= slack, "max_kl {:e} instead of {most:e}", measures.max_kl);
    let mean = kls.iter().sum::<f64>() / kls.len() as f64;
    prop_assert!(
        (measures.kl_divergence - mean).abs() <= slack,
        "kl {:e} not {mean:e}",
        measures.kl_divergence
    );
    Ok(())
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        12 => -10.0f32..10.0,
        1 => prop::sample::select(vec![
            0.0, -0.0, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE,
            1e-40, -1e-40, 3e38, -3e38, f32::MAX, 1e20, -1e-20, 1e-13,
        ]),
    ]
}

fn ordinary() -> impl Strategy<Value = f32> {
    prop_oneof![9 => -10.0f32..10.0, 1 => Just(0.0f32)]
}

fn pairs(element: BoxedStrategy<f32>) -> impl Strategy<Value = (usize, Vec<(f32, f32)>)> {
    (1usize..70, 0usize..40).prop_flat_map(move |(cols, rows)| {
        let rows = rows.min(1100 / cols).max(1);
        let pair = (element.clone(), element.clone(), prop::bool::weighted(0.7)).prop_map(|(a, b, near)| {
            if near && a.is_finite() && b.is_finite() {
                (a, a + a * (b * 1e-4).clamp(-0.01, 0.01))
            } else {
                (a, b)
            }
        });
        (Just(cols), prop::collection::vec(pair, rows * cols))
    })
}

fn check_all_sizes(cols: usize, values: &[(f32, f32)]) -> Result<(), TestCaseError> {
    let (a, b): (Vec<f32>, Vec<f32>) = values.iter().copied().unzip();
    let shape = [(a.len() / cols) as u64, cols as u64];
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (golden, candidate) = (f32s(&shape, &a), f32s(&shape, &b));
    for sizes in [Sizes::default(), TINY] {
        let one = compare_with(&golden, &candidate, &Options { threads: 1, sizes, kl: true });
        check(&one.measures, cols, &wide(&a), &wide(&b))?;
        let three = compare_with(&golden, &candidate, &Options { threads: 3, sizes, kl: true });
        prop_assert_eq!(spell(&one.measures), spell(&three.measures));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn special_values_follow_the_definitions((cols, values) in pairs(value().boxed())) {
        check_all_sizes(cols, &values)?;
    }

    #[test]
    fn ordinary_values_follow_the_definitions((cols, values) in pairs(ordinary().boxed())) {
        check_all_sizes(cols, &values)?;
    }

    #[test]
    fn one_long_row_follows_the_definitions(values in prop::collection::vec((ordinary(), ordinary()), 1..1026)) {
        check_all_sizes(values.len(), &values)?;
    }
}

#[test]
fn the_documented_example_comes_out() {
    let m = compare(&f32s(&[4], &[1.0, 2.0, 3.0, 4.0]), &f32s(&[4], &[1.0, 2.0, 3.0, 5.0]));
    assert!((m.cosine_similarity - 0.993_999_088_5).abs() < 1e-10);
    assert!((m.relative_l2 - 0.182_574_185_8).abs() < 1e-10);
    assert!(m.max_relative.unwrap().value.to_bits() == 0.25f64.to_bits());
    assert!(m.mean_relative_error.to_bits() == 0.0625f64.to_bits());
    assert!(m.max_absolute.unwrap().value.to_bits() == 1f64.to_bits());
    assert!(m.mean_absolute_error.to_bits() == 0.25f64.to_bits());
    assert_eq!(m.max_absolute.unwrap().index, 3);
    assert_eq!(m.worst_channel, None);
}

#[test]
fn many_rows_are_the_same_for_any_number_of_threads() {
    let cols = 1000u64;
    let a: Vec<f32> = (0..300_000u32).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
    let b: Vec<f32> = a.iter().enumerate().map(|(i, a)| a + (i as f32 * 0.11).cos() * 0.01).collect();
    let (golden, candidate) = (f32s(&[300, cols], &a), bf16s(&[300, cols], &b));
    let sizes = Sizes { part: 8192, segment: 512, ..Sizes::default() };
    let spelled: Vec<String> = [1, 2, 5]
        .map(|threads| {
            spell(&compare_with(&golden, &candidate, &Options { threads, kl: true, sizes }).measures)
        })
        .into();
    assert_eq!(spelled[0], spelled[1]);
    assert_eq!(spelled[0], spelled[2]);
}

#[test]
fn integers_beyond_two_to_the_53_differ() {
    let m = compare(&i64s(&[2], &[(1 << 60) + 1, 5]), &i64s(&[2], &[1 << 60, 5]));
    assert!(m.max_absolute.unwrap().value.to_bits() == 1f64.to_bits());
    assert!(m.relative_l2 > 0.0 && !m.bitwise_equal);
}

#[test]
fn shapes_that_differ_by_axes_of_one_are_compared() {
    let row = compare_with(&f32s(&[1, 2, 2], &[1.0; 4]), &f32s(&[2, 2, 1], &[1.0; 4]), &Options::default());
    assert_eq!(row.reason, None);
    assert_eq!(
        row.shape_note.as_deref(),
        Some("compared without axes of size 1: golden [1, 2, 2], candidate [2, 2, 1]")
    );
    let row = compare_with(&f32s(&[2, 3], &[1.0; 6]), &f32s(&[3, 2], &[1.0; 6]), &Options::default());
    assert_eq!(row.reason.as_deref(), Some("shape differs: golden [2, 3], candidate [3, 2]"));
}

#[test]
fn what_cannot_be_measured_says_why() {
    let reason = |a: &Tensor, b: &Tensor| compare_with(a, b, &Options::default()).reason.unwrap();
    assert_eq!(reason(&f32s(&[0, 3], &[]), &f32s(&[0, 3], &[])), "empty");
    assert_eq!(reason(&f32s(&[1], &[f32::NAN]), &f32s(&[1], &[1.0])), "no element is finite on both sides");
    let packed = |byte: u8| tensor(DType::Int4, &[1], vec![byte]);
    assert_eq!(
        reason(&packed(1), &f32s(&[1], &[1.0])),
        "dtype not measurable: golden int4, candidate float32: packed elements have no known value"
    );
    let row = compare_with(&packed(1), &packed(1), &Options::default());
    assert!(row.measures.bitwise_equal && row.reason.is_some());
    assert!(!compare_with(&packed(1), &packed(2), &Options::default()).measures.bitwise_equal);
    let short = f32s(&[4], &[1.0, 2.0]);
    assert!(reason(&short, &f32s(&[4], &[1.0; 4])).contains("beyond its bytes"));
}

#[test]
fn complex_parts_are_measured_and_elements_indexed() {
    let values =
        |v: &[f32]| tensor(DType::Complex64, &[2, 1], v.iter().flat_map(|v| v.to_le_bytes()).collect());
    let m = compare(&values(&[1.0, 2.0, 3.0, 4.0]), &values(&[1.0, 2.0, 3.0, 5.0]));
    assert_eq!((m.elements, m.max_absolute.unwrap().index, m.worst_channel), (2, 1, Some(0)));
    assert!((m.relative_l2 - 0.182_574_185_8).abs() < 1e-10);
    assert!(m.kl_divergence.is_nan());
}

#[test]
fn strided_views_measure_like_their_copies() {
    let values: Vec<f32> = (0..6000).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut view = f32s(&[60, 100], &values);
    view.info.shape = vec![100, 60];
    view.strides = Some(vec![1, 100]);
    let copy: Vec<f32> = (0..6000).map(|i| values[(i % 60) * 100 + i / 60]).collect();
    let other = bf16s(&[100, 60], &copy);
    let straight = compare(&f32s(&[100, 60], &copy), &other);
    assert_eq!(spell(&compare(&view, &other)), spell(&straight));
}

fn in_file(tensor: &Tensor, folder: &std::path::Path, name: &str) -> Tensor {
    let Storage::Memory(bytes) = &tensor.storage else { unreachable!() };
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    let file = std::sync::Arc::new(std::fs::File::open(&path).unwrap());
    let storage = Storage::File { file, path: path.into(), offset: 0, len: bytes.len() as u64 };
    Tensor { storage, ..tensor.clone() }
}

#[test]
fn a_journal_gives_back_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let pair = |i: u32| {
        let a = f32s(&[2, 2], &[1.0, f32::NAN, i as f32, 0.0]);
        let b = f32s(&[2, 2], &[1.5, 2.0, 3.0, f32::INFINITY]);
        [in_file(&a, folder.path(), &format!("a{i}")), in_file(&b, folder.path(), &format!("b{i}"))]
    };
    let pairs: Vec<[Tensor; 2]> = (0..20).map(pair).collect();
    let run_with = |journal: &Journal, tensors: &[[Tensor; 2]]| -> Vec<String> {
        let open = |i: usize| (Ok(tensors[i][0].clone()), Ok(tensors[i][1].clone()));
        let mut go_on = |_: Progress| ControlFlow::Continue(());
        let rows = run(tensors.len(), &open, &Options::default(), Some(journal), &mut go_on).unwrap();
        rows.iter().map(|row| spell(&row.measures)).collect()
    };
    let open = |after: u64| Journal::open(&path, std::time::Duration::from_secs(after));
    // A short run writes nothing.
    let expected = run_with(&open(1000), &pairs);
    assert!(!path.exists());
    let first = open(0);
    assert_eq!(run_with(&first, &pairs[..10]), expected[..10]);
    assert_eq!((first.resumed(), first.kept()), (0, 10));
    // The tenth record is torn.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let second = open(0);
    assert_eq!(run_with(&second, &pairs), expected);
    assert_eq!((second.resumed(), second.kept(), second.problem()), (9, 20, None));
    // One file changed since: its pair is measured again.
    let mut changed = pairs.clone();
    std::fs::write(folder.path().join("a3"), [0u8; 20]).unwrap();
    changed[3][0] = in_file(&f32s(&[2, 2], &[9.0; 4]), folder.path(), "a3");
    let third = open(0);
    assert_ne!(run_with(&third, &changed)[3], expected[3]);
    assert_eq!(third.resumed(), 19);
    third.remove().unwrap();
    third.remove().unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "llmdbg.journal/0 0.0.1\n").unwrap();
    let fourth = open(0);
    assert!(fourth.problem().unwrap().contains("another version"));
    assert_eq!(run_with(&fourth, &pairs[5..8]), expected[5..8]);
    assert_eq!(open(0).known(), 3);
    std::fs::write(&path, "a diary").unwrap();
    let fifth = open(0);
    assert!(fifth.problem().unwrap().contains("something else"));
    assert_eq!(run_with(&fifth, &pairs[5..8]), expected[5..8]);
    fifth.remove().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"a diary");
}

#[test]
fn pairs_of_the_same_bytes_are_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let a = in_file(&f32s(&[2], &[1.0, 2.0]), folder.path(), "a");
    let b = in_file(&f32s(&[2], &[1.0, 3.0]), folder.path(), "b");
    let pairs = [[&a, &b], [&a, &b], [&b, &a], [&a, &b]];
    let open = |i: usize| (Ok(pairs[i][0].clone()), Ok(pairs[i][1].clone()));
    let mut bytes = 0;
    let rows = run(4, &open, &Options::default(), None, &mut |now| {
        bytes = now.bytes;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(bytes, 2 * 16);
    let worst = |row: &Row| row.measures.max_relative.unwrap().value.to_bits();
    let halves = [0.5f64, 0.5, 1.0 / 3.0, 0.5].map(f64::to_bits);
    assert_eq!(rows.iter().map(worst).collect::<Vec<_>>(), halves);
}

#[test]
fn copies_are_followed_and_what_differs_is_measured() {
    const N: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let a: Vec<f32> = (0..N).map(|i| (i as f32 * 0.1).sin()).collect();
    let b: Vec<f32> = a.iter().map(|v| v * 1.001).collect();
    let mut late = b.clone();
    late[N - 5] += 7.0;
    let file = |values: &[f32], name: String| in_file(&f32s(&[100, 200], values), folder.path(), &name);
    // Eleven copies, which are more than are followed at once, then one that differs and one that is cut short.
    let mut pairs: Vec<[Tensor; 2]> =
        (0..11).map(|i| [file(&a, format!("a{i}")), file(&b, format!("b{i}"))]).collect();
    pairs.push([file(&a, "a11".into()), file(&late, "b11".into())]);
    pairs.push([file(&a, "a12".into()), file(&b, "b12".into())]);
    let cut = std::fs::OpenOptions::new().write(true).open(folder.path().join("b12")).unwrap();
    cut.set_len(50_000).unwrap();
    pairs[3][0].notes = vec!["odd".into()];
    let journal = Journal::open(&folder.path().join("journal"), std::time::Duration::ZERO);
    for threads in [1, 3] {
        let mut bytes = 0;
        let open = |i: usize| (Ok(pairs[i][0].clone()), Ok(pairs[i][1].clone()));
        let options = Options { threads, ..Options::default() };
        let kept = (threads == 1).then_some(&journal);
        let rows = run(pairs.len(), &open, &options, kept, &mut |now| {
            bytes = now.bytes;
            ControlFlow::Continue(())
        })
        .unwrap();
        // Two of the copies, the one that differs and the one that is short.
        assert_eq!(bytes, 4 * 2 * 4 * N as u64);
        let alone = |i: usize| compare_with(&pairs[i][0], &pairs[i][1], &Options::default());
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(spell(&row.measures), spell(&alone(i).measures), "{i}");
            assert_eq!(row.golden.as_ref(), Some(&pairs[i][0].info));
        }
        assert_eq!(rows[3].notes, ["golden: odd"]);
        assert!(rows[4].notes.is_empty());
        let worst = rows[11].measures.max_absolute.unwrap();
        assert_eq!((worst.index, worst.candidate), (N as u64 - 5, f64::from(late[N - 5])));
        assert!(rows[12].reason.as_ref().unwrap().contains("became shorter"));
    }
    assert_eq!(journal.kept(), 12);
}

#[test]
fn breaking_off_is_an_error() {
    let one = f32s(&[1], &[1.0]);
    let open = |_: usize| (Ok(one.clone()), Ok(one.clone()));
    let result = run(3, &open, &Options::default(), None, &mut |_| ControlFlow::Break(()));
    assert!(matches!(result, Err(crate::Error::Cancelled)));
}

#[test]
fn row_profiles_name_the_bad_row() {
    let a: Vec<f32> = (1..=40).map(|i| i as f32).collect();
    let mut b = a.clone();
    b[17] = 0.0;
    let (golden, candidate) = (f32s(&[10, 4], &a), f32s(&[10, 4], &b));
    let (rows, each) = super::row_profile(&golden, &candidate, 100, &Options::default()).unwrap();
    let expected = 18.0 / f32::sqrt(17.0 * 17.0 + 18.0 * 18.0 + 19.0 * 19.0 + 20.0 * 20.0);
    assert_eq!((rows.len(), each), (10, 1));
    assert!(rows.iter().enumerate().all(|(i, &v)| (v - if i == 4 { expected } else { 0.0 }).abs() < 1e-6));
    let (rows, each) = super::row_profile(&golden, &candidate, 4, &Options::default()).unwrap();
    assert_eq!((rows.len(), each), (4, 3));
    assert!(rows[1] > 0.4 && rows[0] == 0.0);
}
