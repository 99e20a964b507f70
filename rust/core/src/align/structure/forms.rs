//! How a golden tensor and the candidate's tensor of the same value can differ in shape.

use crate::align::Transform;

/// One way for two shapes to meet. Sizes are those of the record it is applied to, so one form fits every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// Equal but for axes of size 1.
    Same,
    /// The same elements in the same order.
    Reshape,
    /// The candidate is transposed.
    Transposed,
    /// Heads before tokens on one side, `[b, h, t, d]` against `[b·t, h·d]`.
    HeadsFirst,
    /// One side has only the last rows of the other: logits of the last token.
    LastRows,
    /// One side has padding behind the rows of the other.
    FirstRows,
    /// The candidate ran a batch of copies.
    Repeat,
    /// Blocks of sixteen on the candidate.
    Nz,
    /// Part of the candidate's last axis.
    CandidateColumns { start: u64, len: u64 },
    /// Part of the golden tensor's last axis.
    GoldenColumns { start: u64, len: u64 },
    /// Part of each of equal groups of the candidate's columns: q, k and v head group by head group.
    CandidateGroups { groups: u64, start: u64, len: u64 },
    /// The same of the golden tensor.
    GoldenGroups { groups: u64, start: u64, len: u64 },
    /// The candidate's ranks side by side along the last axis.
    RanksColumns,
    /// The same after each rank's part of its pack was cut out.
    RanksPack { start: u64, len: u64 },
    /// The candidate's ranks side by side along the first axis.
    RanksRows,
    /// The candidate's ranks added up.
    RanksSum,
    /// The candidate's heads with pairs where golden has halves, or the reverse.
    Heads { head: u64, interleave: bool },
}

fn squeezed(shape: &[u64]) -> Vec<u64> {
    shape.iter().copied().filter(|&n| n != 1).collect()
}

fn numel(shape: &[u64]) -> u64 {
    shape.iter().product()
}

/// Rows and columns, where all but the last axis are rows.
fn matrix(shape: &[u64]) -> (u64, u64) {
    match shape.split_last() {
        Some((&last, leading)) => (leading.iter().product(), last),
        None => (1, 1),
    }
}

/// The forms in which two shapes can meet, likeliest first.
pub(super) fn between(golden: &[u64], candidate: &[u64], ranks: u64, is_nz: bool) -> Vec<Form> {
    let ((rows, cols), (other_rows, other_cols)) = (matrix(golden), matrix(candidate));
    let mut forms = Vec::new();
    // A logical shape, or four axes of blocks with batches in front.
    if is_nz && (candidate.len() == 2 || candidate.len() >= 4) {
        forms.push(Form::Nz);
    }
    if squeezed(golden) == squeezed(candidate) {
        forms.push(Form::Same);
        if ranks > 1 {
            forms.push(Form::RanksSum);
        }
    } else if numel(golden) == numel(candidate) {
        if cols == other_cols
            || rows == other_rows
            || is_heads(golden, candidate)
            || is_heads(candidate, golden)
        {
            forms.push(Form::Reshape);
        }
        if heads_first(golden, candidate).is_some() || heads_first(candidate, golden).is_some() {
            forms.push(Form::HeadsFirst);
        }
        if golden.len() == 2 && candidate.len() == 2 && golden[0] == candidate[1] {
            forms.push(Form::Transposed);
        }
    } else if ranks > 1 && cols == other_cols * ranks && rows == other_rows {
        forms.push(Form::RanksColumns);
    } else if ranks > 1 && cols == other_cols && rows == other_rows * ranks && golden.len() == candidate.len()
    {
        forms.push(Form::RanksRows);
    } else if cols == other_cols && rows > 0 && other_rows > 0 {
        if other_rows < rows {
            forms.extend([Form::LastRows, Form::FirstRows]);
        } else {
            if other_rows.is_multiple_of(rows) {
                forms.push(Form::Repeat);
            }
            forms.extend([Form::FirstRows, Form::LastRows]);
        }
    }
    forms
}

/// `[…, h, d]` is `[…, h·d]` with its heads apart.
fn is_heads(apart: &[u64], merged: &[u64]) -> bool {
    let (apart, merged) = (squeezed(apart), squeezed(merged));
    apart.len() == merged.len() + 1
        && apart[..merged.len().saturating_sub(1)] == merged[..merged.len().saturating_sub(1)]
}

/// For `[b, h, t, d]` or `[h, t, d]` against rows of `h·d`: the order of axes that puts heads last but one.
fn heads_first(apart: &[u64], merged: &[u64]) -> Option<Vec<usize>> {
    let (_, cols) = matrix(merged);
    let axes = match *apart {
        [_, h, _, d] if h * d == cols && h > 1 => vec![0, 2, 1, 3],
        [h, _, d] if h * d == cols && h > 1 => vec![1, 0, 2],
        _ => return None,
    };
    Some(axes)
}

impl Form {
    /// How sure a form is by itself, 0 to 1: what has to be assumed.
    pub(super) fn plainness(self) -> f64 {
        match self {
            Self::Same => 1.0,
            Self::Reshape | Self::RanksColumns | Self::RanksRows | Self::Nz => 0.9,
            Self::CandidateColumns { .. }
            | Self::GoldenColumns { .. }
            | Self::CandidateGroups { .. }
            | Self::GoldenGroups { .. }
            | Self::RanksPack { .. } => 0.8,
            Self::LastRows | Self::FirstRows | Self::Repeat | Self::HeadsFirst | Self::Transposed => 0.5,
            Self::RanksSum | Self::Heads { .. } => 0.3,
        }
    }

    /// Whether only content can tell that it holds.
    pub(super) fn needs_content(self) -> bool {
        matches!(self, Self::RanksSum | Self::Heads { .. })
    }

    pub(super) fn joins_ranks(self) -> bool {
        matches!(self, Self::RanksColumns | Self::RanksPack { .. } | Self::RanksRows | Self::RanksSum)
    }

    /// The transforms of both sides, for records of these shapes (of one rank); `None` where the form does not fit.
    pub(super) fn transforms(
        self,
        golden: &[u64],
        candidate: &[u64],
    ) -> Option<(Vec<Transform>, Vec<Transform>)> {
        let ((rows, cols), (other_rows, other_cols)) = (matrix(golden), matrix(candidate));
        let last = |shape: &[u64]| shape.len().saturating_sub(1);
        let on_candidate = |t: Vec<Transform>| Some((Vec::new(), t));
        let flat = |shape: &[u64]| {
            let (rows, cols) = matrix(shape);
            (shape.len() != 2).then(|| Transform::Reshape { shape: vec![rows, cols] })
        };
        let cut = |shape: &[u64], start: u64, len: u64| {
            let slice = Transform::Slice { axis: 0, start, len };
            flat(shape).into_iter().chain([slice]).collect::<Vec<_>>()
        };
        match self {
            Self::Same if squeezed(golden) == squeezed(candidate) => on_candidate(Vec::new()),
            Self::Same | Self::Reshape => (numel(golden) == numel(candidate))
                .then(|| (Vec::new(), vec![Transform::Reshape { shape: golden.to_vec() }])),
            Self::Transposed => on_candidate(vec![Transform::Permute { axes: vec![1, 0] }]),
            Self::HeadsFirst => {
                if let Some(axes) = heads_first(golden, candidate) {
                    let shape = candidate.to_vec();
                    return Some((
                        vec![Transform::Permute { axes }, Transform::Reshape { shape }],
                        Vec::new(),
                    ));
                }
                let axes = heads_first(candidate, golden)?;
                on_candidate(vec![Transform::Permute { axes }, Transform::Reshape { shape: golden.to_vec() }])
            }
            // At a step of one token there is nothing to cut.
            Self::LastRows | Self::FirstRows | Self::Repeat if rows == other_rows => {
                Self::Reshape.plain(golden, candidate)
            }
            Self::LastRows if other_rows < rows => {
                Some((cut(golden, rows - other_rows, other_rows), Vec::new()))
            }
            Self::LastRows => on_candidate(cut(candidate, other_rows - rows, rows)),
            Self::FirstRows if other_rows < rows => Some((cut(golden, 0, other_rows), Vec::new())),
            Self::FirstRows => on_candidate(cut(candidate, 0, rows)),
            Self::Repeat => (rows > 0 && other_rows.is_multiple_of(rows)).then(|| {
                let times = other_rows / rows;
                let golden_steps = flat(golden).into_iter().chain([Transform::Broadcast { times }]).collect();
                (golden_steps, flat(candidate).into_iter().collect())
            }),
            Self::Nz => on_candidate(vec![Transform::NzToNd { shape: golden.to_vec() }]),
            // Columns of another number of rows: cut first, then the rows are brought together.
            Self::CandidateColumns { start, len } if start + len <= other_cols && rows != other_rows => {
                let steps = columns_of(candidate, start, len);
                let (own, other) = rows_only(golden, &[other_rows, len])?;
                Some((own, steps.into_iter().chain(other).collect()))
            }
            Self::GoldenColumns { start, len } if start + len <= cols && rows != other_rows => {
                let steps = columns_of(golden, start, len);
                let (own, other) = rows_only(&[rows, len], candidate)?;
                Some((steps.into_iter().chain(own).collect(), other))
            }
            Self::CandidateColumns { start, len } if start + len <= other_cols => {
                let slice = Transform::Slice { axis: last(candidate), start, len };
                let reshape = (squeezed(golden).len() != squeezed(candidate).len())
                    .then(|| Transform::Reshape { shape: golden.to_vec() });
                on_candidate([slice].into_iter().chain(reshape).collect())
            }
            Self::GoldenColumns { start, len } if start + len <= cols => {
                let slice = Transform::Slice { axis: last(golden), start, len };
                let reshape = (squeezed(golden).len() != squeezed(candidate).len())
                    .then(|| Transform::Reshape { shape: candidate.to_vec() });
                Some(([slice].into_iter().chain(reshape).collect(), Vec::new()))
            }
            Self::RanksPack { start, len } if start + len <= other_cols && rows == other_rows && len > 0 => {
                let ranks = cols / len;
                on_candidate(vec![
                    Transform::ShardConcat { axis: last(candidate) },
                    Transform::Reshape { shape: vec![rows, ranks, other_cols] },
                    Transform::Slice { axis: 2, start, len },
                    Transform::Reshape { shape: golden.to_vec() },
                ])
            }
            Self::CandidateGroups { groups, start, len } if rows == other_rows && cols == groups * len => {
                on_candidate(of_groups(candidate, groups, start, len, golden)?)
            }
            Self::GoldenGroups { groups, start, len } if rows == other_rows && other_cols == groups * len => {
                Some((of_groups(golden, groups, start, len, candidate)?, Vec::new()))
            }
            Self::CandidateColumns { .. }
            | Self::GoldenColumns { .. }
            | Self::CandidateGroups { .. }
            | Self::GoldenGroups { .. }
            | Self::RanksPack { .. } => None,
            Self::RanksColumns => on_candidate(vec![Transform::ShardConcat { axis: last(candidate) }]),
            Self::RanksRows => on_candidate(vec![Transform::ShardConcat { axis: 0 }]),
            Self::RanksSum => on_candidate(vec![Transform::ShardSum]),
            Self::Heads { head, interleave } => {
                on_candidate(vec![Transform::HeadPermutation { head, interleave }])
            }
        }
    }

    fn plain(self, golden: &[u64], candidate: &[u64]) -> Option<(Vec<Transform>, Vec<Transform>)> {
        if squeezed(golden) == squeezed(candidate) {
            return Some((Vec::new(), Vec::new()));
        }
        self.transforms(golden, candidate)
    }

    /// The same form with the sides exchanged, where there is one.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::CandidateColumns { start, len } => Self::GoldenColumns { start, len },
            Self::GoldenColumns { start, len } => Self::CandidateColumns { start, len },
            other => other,
        }
    }
}

/// Columns as a matrix of their own.
fn columns_of(shape: &[u64], start: u64, len: u64) -> Vec<Transform> {
    let (rows, cols) = matrix(shape);
    vec![Transform::Reshape { shape: vec![rows, cols] }, Transform::Slice { axis: 1, start, len }]
}

/// The transforms of two shapes that differ in their rows alone.
fn rows_only(golden: &[u64], candidate: &[u64]) -> Option<(Vec<Transform>, Vec<Transform>)> {
    let form = between(golden, candidate, 1, false).into_iter().next()?;
    matches!(form, Form::Repeat | Form::FirstRows | Form::LastRows)
        .then(|| form.transforms(golden, candidate))?
}

/// Takes a part out of each group of columns.
fn of_groups(pack: &[u64], groups: u64, start: u64, len: u64, to: &[u64]) -> Option<Vec<Transform>> {
    let (rows, cols) = matrix(pack);
    let width =
        cols.checked_div(groups).filter(|width| cols.is_multiple_of(groups) && start + len <= *width)?;
    Some(vec![
        Transform::Reshape { shape: vec![rows, groups, width] },
        Transform::Slice { axis: 2, start, len },
        Transform::Reshape { shape: to.to_vec() },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(golden: &[u64], candidate: &[u64], ranks: u64) -> Option<Form> {
        between(golden, candidate, ranks, false).first().copied()
    }

    #[test]
    fn shapes_meet() {
        assert_eq!(first(&[1, 5, 32], &[5, 32], 1), Some(Form::Same));
        assert_eq!(first(&[2, 5, 32], &[10, 32], 1), Some(Form::Reshape));
        assert_eq!(first(&[1, 5, 32], &[5, 4, 8], 1), Some(Form::Reshape));
        assert_eq!(first(&[1, 4, 5, 8], &[5, 32], 1), Some(Form::HeadsFirst));
        assert_eq!(first(&[1, 5, 64], &[1, 64], 1), Some(Form::LastRows));
        assert_eq!(first(&[5, 32], &[10, 32], 1), Some(Form::Repeat));
        assert_eq!(first(&[5, 32], &[16, 32], 1), Some(Form::FirstRows));
        assert_eq!(first(&[1, 5, 32], &[5, 16], 2), Some(Form::RanksColumns));
        assert_eq!(first(&[1, 5, 32], &[5, 16], 1), None);
        assert_eq!(first(&[32, 48], &[48, 32], 1), Some(Form::Transposed));
    }

    #[test]
    fn columns_of_a_padded_pack() {
        let form = Form::CandidateColumns { start: 4, len: 8 };
        let cut = vec![
            Transform::Reshape { shape: vec![7, 12] },
            Transform::Slice { axis: 1, start: 4, len: 8 },
            Transform::Slice { axis: 0, start: 0, len: 5 },
        ];
        assert_eq!(form.transforms(&[1, 5, 8], &[7, 12]), Some((vec![], cut)));
        // Neither more nor fewer of the same columns.
        assert_eq!(form.transforms(&[1, 5, 9], &[7, 12]), None);
    }

    #[test]
    fn a_step_of_one_token_needs_no_cut() {
        assert_eq!(Form::LastRows.transforms(&[1, 1, 64], &[1, 64]), Some((vec![], vec![])));
        let cut =
            vec![Transform::Reshape { shape: vec![5, 64] }, Transform::Slice { axis: 0, start: 4, len: 1 }];
        assert_eq!(Form::LastRows.transforms(&[1, 5, 64], &[1, 64]), Some((cut, vec![])));
    }
}
