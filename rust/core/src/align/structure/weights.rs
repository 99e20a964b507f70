//! Operations known by their weights: both stacks load one checkpoint.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::families::{self, Family};
use super::forms::Form;
use super::model::{Model, tells_apart};
use crate::align::view;
use crate::align::{Transform, sketch};
use crate::dump::Role;
use crate::{DType, Tensor, TensorInfo};

/// Likeness from which two weights are the same after a cast.
const SAME: f64 = 0.99;
/// The same for integers with their scales.
const SAME_QUANTISED: f64 = 0.97;
/// ACL's number of the format.
pub(super) const FRACTAL_NZ: i32 = 29;
/// Values of a row by which it is looked up.
const ROW: u64 = 24;

/// A weight of one side.
pub(super) struct Weight {
    pub(super) unit: usize,
    /// Its place in the dump; `None` for one out of a checkpoint.
    pub(super) place: Option<usize>,
    /// From the recorded tensor to rows and columns.
    straight: Vec<Transform>,
    tensor: Tensor,
    sketch: Vec<f64>,
    /// The first row's values at fixed places, for what is packed behind others.
    row: Vec<f64>,
    /// The record of the scales of an integer weight.
    scale: Option<usize>,
}

/// The same weight on both sides.
#[derive(Clone, Debug)]
pub(super) struct Anchor {
    pub(super) golden_unit: usize,
    pub(super) candidate_unit: usize,
    pub(super) golden_place: Option<usize>,
    pub(super) candidate_place: usize,
    pub(super) golden_transforms: Vec<Transform>,
    pub(super) candidate_transforms: Vec<Transform>,
    /// Scales that dequantise the candidate's weight: another place of its.
    pub(super) candidate_scale: Option<usize>,
    /// How the outputs of the two operations correspond.
    pub(super) output: Form,
    pub(super) joins_ranks: bool,
}

/// The weights that a model's dump holds.
pub(super) fn of_model(model: &Model) -> Vec<Weight> {
    (0..model.values.len())
        .into_par_iter()
        .filter_map(|v| {
            let value = &model.values[v];
            if !value.is_weight {
                return None;
            }
            // The leaf that reads it; what encloses it comes second.
            let place =
                *value.places.iter().min_by_key(|&&p| (model.units[model.places[p].unit].is_container, p))?;
            let unit = model.places[place].unit;
            let mut weight = read(unit, Some(place), model.dump.tensor(model.places[place].record).ok()?)?;
            if weight.tensor.info.dtype == DType::Int8 && weight.straight.is_empty() {
                weight.scale = scale(model, unit, &weight.tensor);
            }
            Some(weight)
        })
        .collect()
}

fn read(unit: usize, place: Option<usize>, tensor: Tensor) -> Option<Weight> {
    let straight: Vec<Transform> = rows_of_nz(&tensor.info).into_iter().collect();
    let tensor = view::apply(vec![tensor], &straight).ok()?;
    let sketch = sketch::read(&tensor, &sketch::positions(tensor.info.numel()))?;
    let row = if tensor.info.shape.len() == 2 { row(&tensor, 0)? } else { Vec::new() };
    Some(Weight { unit, place, straight, tensor, sketch, row, scale: None })
}

/// What makes rows of a weight that is stored in blocks of sixteen.
fn rows_of_nz(info: &TensorInfo) -> Option<Transform> {
    let shape = match *info.shape.as_slice() {
        _ if info.acl_format != Some(FRACTAL_NZ) => return None,
        [1, blocks, rows, width] if matches!(width, 16 | 32) => vec![rows, blocks * width],
        [rows, cols] => vec![rows, cols],
        _ => return None,
    };
    Some(Transform::NzToNd { shape })
}

/// The place of an integer weight's scales: the other input of its operation with one number for each row.
fn scale(model: &Model, unit: usize, weight: &Tensor) -> Option<usize> {
    let rows = *weight.info.shape.first()?;
    (0..model.places.len()).find(|&p| {
        let place = &model.places[p];
        let info = model.values[place.value].info.as_ref();
        place.unit == unit
            && place.role != Role::Output
            && info.is_some_and(|i| i.dtype.is_float() && i.numel() == rows)
            && model.values[place.value].producer.is_none()
    })
}

/// Values of one row at fixed fractions of it.
fn row(tensor: &Tensor, row: u64) -> Option<Vec<f64>> {
    let &[_, cols] = tensor.info.shape.as_slice() else { return None };
    let at: Vec<u64> = (0..ROW).map(|i| row * cols + i * cols / ROW).collect();
    sketch::read(tensor, &at)
}

/// Weights out of a checkpoint, given to the golden operations whose names they carry.
pub(super) fn of_checkpoint(model: &Model, tensors: &[(String, Tensor)]) -> Vec<Weight> {
    let units: BTreeMap<&str, usize> =
        model.units.iter().enumerate().rev().map(|(u, unit)| (unit.name.as_str(), u)).collect();
    tensors
        .par_iter()
        .filter_map(|(name, tensor)| {
            let (module, _) = name.rsplit_once('.')?;
            let unit = std::iter::successors(Some(module), |m| m.split_once('.').map(|(_, rest)| rest))
                .find_map(|m| units.get(m))
                .or_else(|| {
                    // The dump's names may have a part in front that the checkpoint's lack.
                    let tail = format!(".{module}");
                    let mut longer = units.iter().filter(|(name, _)| name.ends_with(&tail));
                    longer.next().filter(|_| longer.next().is_none()).map(|(_, u)| u)
                })?;
            read(*unit, None, tensor.clone())
        })
        .collect()
}

/// Finds equal weights. `ranks` is how many of the candidate's ranks share a golden weight.
pub(super) fn anchors(
    golden: &Model,
    candidate: &Model,
    own: &[Weight],
    other: &[Weight],
    ranks: u64,
) -> Vec<Anchor> {
    let mut by_shape: BTreeMap<Vec<u64>, Vec<usize>> = BTreeMap::new();
    let mut by_cols: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, weight) in own.iter().enumerate() {
        let shape = &weight.tensor.info.shape;
        by_shape.entry(shape.clone()).or_default().push(i);
        if let [_, cols] = shape.as_slice() {
            by_cols.entry(*cols).or_default().push(i);
        }
    }
    let search = Search { golden, candidate, own, by_shape, by_cols, ranks };
    let found: Vec<Vec<Anchor>> = other.par_iter().map(|weight| search.find(weight)).collect();
    // Two candidate weights may be equal to one golden weight; which is which, they do not tell.
    let mut anchors: Vec<Anchor> = found.into_iter().flatten().collect();
    let mut claims: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for anchor in &anchors {
        claims.entry(anchor.golden_unit).or_default().push(anchor.candidate_unit);
    }
    anchors.retain(|anchor| {
        let units = &claims[&anchor.golden_unit];
        let related = |a: usize, b: usize| {
            let (a, b) = (&candidate.units[a].node, &candidate.units[b].node);
            a == b || a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/"))
        };
        units.iter().all(|&u| related(u, anchor.candidate_unit))
    });
    anchors
}

struct Search<'a> {
    golden: &'a Model<'a>,
    candidate: &'a Model<'a>,
    own: &'a [Weight],
    by_shape: BTreeMap<Vec<u64>, Vec<usize>>,
    by_cols: BTreeMap<u64, Vec<usize>>,
    ranks: u64,
}

impl Search<'_> {
    fn find(&self, weight: &Weight) -> Vec<Anchor> {
        if !tells_apart(&weight.sketch) {
            return Vec::new();
        }
        let shape = &weight.tensor.info.shape;
        let quantised = self.dequantised(weight);
        let (tensor, sketch, same) = match &quantised {
            Some((tensor, sketch)) => (tensor, sketch, SAME_QUANTISED),
            None => (&weight.tensor, &weight.sketch, SAME),
        };
        let equal: Vec<usize> = self
            .by_shape
            .get(shape)
            .into_iter()
            .flatten()
            .copied()
            .filter(|&g| alike(&self.own[g].sketch, sketch) >= same)
            .collect();
        if !equal.is_empty() {
            return self
                .only(equal, weight)
                .map(|g| self.anchor(g, weight, Vec::new(), Form::Same))
                .into_iter()
                .collect();
        }
        let &[rows, cols] = shape.as_slice() else {
            return Vec::new();
        };
        let turned = view::apply(vec![tensor.clone()], &[Transform::Permute { axes: vec![1, 0] }]).ok();
        if let Some(turned) = &turned {
            let there = self.by_shape.get(&vec![cols, rows]).into_iter().flatten().copied();
            let sketch = sketch::read(turned, &sketch::positions(rows * cols)).unwrap_or_default();
            let equal: Vec<usize> = there.filter(|&g| alike(&self.own[g].sketch, &sketch) >= same).collect();
            if !equal.is_empty() {
                let axes = vec![Transform::Permute { axes: vec![1, 0] }];
                return self
                    .only(equal, weight)
                    .map(|g| self.anchor(g, weight, axes, Form::Same))
                    .into_iter()
                    .collect();
            }
        }
        let packed = self.packed(weight, tensor, rows, cols, false, same);
        if !packed.is_empty() {
            return packed;
        }
        if let Some(turned) = &turned {
            let packed = self.packed(weight, turned, cols, rows, true, same);
            if !packed.is_empty() {
                return packed;
            }
        }
        self.shard_of_columns(weight).into_iter().collect()
    }

    fn dequantised(&self, weight: &Weight) -> Option<(Tensor, Vec<f64>)> {
        let scale = self.candidate.dump.tensor(self.candidate.places[weight.scale?].record).ok()?;
        let tensor = view::apply(vec![weight.tensor.clone(), scale], &[Transform::Dequantise]).ok()?;
        let sketch = sketch::read(&tensor, &sketch::positions(tensor.info.numel()))?;
        Some((tensor, sketch))
    }

    /// The one golden weight, if only one is equal: by operation where the values do not tell, as with tied embeddings.
    fn only(&self, equal: Vec<usize>, weight: &Weight) -> Option<usize> {
        if let [one] = equal.as_slice() {
            return Some(*one);
        }
        let family = self.candidate.units[weight.unit].family;
        let fits = |&g: &usize| {
            families::agreement(self.golden.units[self.own[g].unit].family, family) > 0.5
                && family != Family::Unknown
        };
        let mut fitting = equal.into_iter().filter(fits);
        fitting.next().filter(|_| fitting.next().is_none())
    }

    /// Golden weights one behind the other in the rows of the candidate's.
    fn packed(
        &self,
        weight: &Weight,
        tensor: &Tensor,
        rows: u64,
        cols: u64,
        turned: bool,
        same: f64,
    ) -> Vec<Anchor> {
        let Some(there) = self.by_cols.get(&cols) else { return Vec::new() };
        // Whole, or the share of it that a rank has.
        let shares: &[u64] = if self.ranks > 1 { &[1, self.ranks] } else { &[1] };
        let lies_at = |g: usize, at: u64, len: u64, start: &[f64]| -> Option<bool> {
            let own = &self.own[g];
            if alike(&own.row, start) < same {
                return None;
            }
            let cut = |tensor: &Tensor, start| {
                view::apply(vec![tensor.clone()], &[Transform::Slice { axis: 0, start, len }])
            };
            let (part, first) = (cut(tensor, at).ok()?, cut(&own.tensor, 0).ok()?);
            let positions = sketch::positions(len * cols);
            Some(alike(&sketch::read(&first, &positions)?, &sketch::read(&part, &positions)?) >= same)
        };
        let len_of = |g: usize, r: u64| {
            let whole = self.own[g].tensor.info.shape[0];
            whole.is_multiple_of(r).then_some(whole / r).filter(|&len| len < rows || r > 1)
        };
        let mut found: Vec<(usize, u64, u64, u64)> = Vec::new();
        // From the front, and where a part is not known, from the end.
        let (mut front, mut back) = (0, rows);
        while front < back {
            let Some(start) = row(tensor, front) else { break };
            let next = there.iter().find_map(|&g| {
                shares.iter().find_map(|&r| {
                    let len = len_of(g, r).filter(|len| front + len <= back)?;
                    lies_at(g, front, len, &start).filter(|&fits| fits).map(|_| (g, front, len, r))
                })
            });
            let Some(next) = next else { break };
            front += next.2;
            found.push(next);
        }
        while front < back {
            let next = there.iter().find_map(|&g| {
                shares.iter().find_map(|&r| {
                    let len = len_of(g, r).filter(|len| front + len <= back)?;
                    let start = row(tensor, back - len)?;
                    lies_at(g, back - len, len, &start).filter(|&fits| fits).map(|_| (g, back - len, len, r))
                })
            });
            let Some(next) = next else { break };
            back -= next.2;
            found.push(next);
        }
        found
            .into_iter()
            .map(|(g, at, len, r)| {
                let (steps, output) = Self::cut(at, len, rows, cols, r, turned);
                let mut anchor = self.anchor(g, weight, steps, output);
                anchor.joins_ranks = r > 1;
                anchor
            })
            .collect()
    }

    /// The steps from a pack (of `r` ranks) to the rows of one golden weight, and how the outputs then correspond.
    fn cut(at: u64, len: u64, rows: u64, cols: u64, r: u64, turned: bool) -> (Vec<Transform>, Form) {
        let axis = usize::from(turned);
        let turn = turned.then(|| Transform::Permute { axes: vec![1, 0] });
        let mut steps = Vec::new();
        if r > 1 {
            steps.push(Transform::ShardConcat { axis });
        }
        if len < rows && r > 1 {
            // Each rank's pack is cut before they are joined: an axis for the ranks in between.
            let shape = if turned { vec![cols, r, rows] } else { vec![r, rows, cols] };
            steps.push(Transform::Reshape { shape });
            steps.push(Transform::Slice { axis: 1 + axis, start: at, len });
            let shape = if turned { vec![cols, r * len] } else { vec![r * len, cols] };
            steps.push(Transform::Reshape { shape });
        } else if len < rows {
            steps.push(Transform::Slice { axis, start: at, len });
        }
        steps.extend(turn);
        let output = match (len < rows, r > 1) {
            (false, false) => Form::Same,
            (false, true) => Form::RanksColumns,
            (true, false) => Form::CandidateColumns { start: at, len },
            (true, true) => Form::RanksPack { start: at, len },
        };
        (steps, output)
    }

    /// The first rank's columns of a golden weight.
    fn shard_of_columns(&self, weight: &Weight) -> Option<Anchor> {
        let &[rows, cols] = weight.tensor.info.shape.as_slice() else { return None };
        if self.ranks < 2 {
            return None;
        }
        for turned in [false, true] {
            let (rows, cols) = if turned { (cols, rows) } else { (rows, cols) };
            let there = self.by_shape.get(&vec![rows, cols * self.ranks]).into_iter().flatten();
            let equal: Vec<usize> = there
                .copied()
                .filter(|&g| {
                    let cut = Transform::Slice { axis: 1, start: 0, len: cols };
                    let turn = turned.then(|| Transform::Permute { axes: vec![1, 0] });
                    let part = view::apply(vec![self.own[g].tensor.clone()], &[cut]);
                    let own = view::apply(vec![weight.tensor.clone()], turn.as_slice());
                    let positions = sketch::positions(rows * cols);
                    let both = part.ok().zip(own.ok()).and_then(|(a, b)| {
                        Some((sketch::read(&a, &positions)?, sketch::read(&b, &positions)?))
                    });
                    both.is_some_and(|(a, b)| alike(&a, &b) >= SAME)
                })
                .collect();
            if let Some(g) = self.only(equal, weight) {
                let turn = turned.then(|| Transform::Permute { axes: vec![1, 0] });
                let axis = usize::from(!turned);
                let transforms = [Transform::ShardConcat { axis }].into_iter().chain(turn).collect();
                let mut anchor = self.anchor(g, weight, transforms, Form::RanksSum);
                anchor.joins_ranks = true;
                return Some(anchor);
            }
        }
        None
    }

    fn anchor(&self, g: usize, weight: &Weight, candidate: Vec<Transform>, output: Form) -> Anchor {
        let quantised = weight.scale.is_some();
        let dequantise = quantised.then_some(Transform::Dequantise);
        Anchor {
            golden_unit: self.own[g].unit,
            candidate_unit: weight.unit,
            golden_place: self.own[g].place,
            candidate_place: weight.place.unwrap_or(usize::MAX),
            golden_transforms: self.own[g].straight.clone(),
            candidate_transforms: weight
                .straight
                .iter()
                .cloned()
                .chain(dequantise)
                .chain(candidate)
                .collect(),
            candidate_scale: weight.scale,
            output,
            joins_ranks: false,
        }
    }
}

fn alike(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    // Most pairs differ in the first values already.
    let far = a
        .iter()
        .zip(b)
        .take(3)
        .all(|(x, y)| (x - y).abs() > 0.1 * (x.abs() + y.abs()) && (x - y).abs() > 0.0);
    if far && a.len() >= 3 { 0.0 } else { sketch::likeness(a, b).unwrap_or(0.0) }
}

impl Anchor {
    /// The anchor with the sides exchanged.
    pub(super) fn flipped(self) -> Option<Self> {
        if self.joins_ranks || self.candidate_scale.is_some() {
            return None;
        }
        Some(Self {
            golden_unit: self.candidate_unit,
            candidate_unit: self.golden_unit,
            golden_place: Some(self.candidate_place),
            candidate_place: self.golden_place?,
            golden_transforms: self.candidate_transforms,
            candidate_transforms: self.golden_transforms,
            candidate_scale: None,
            output: self.output.flipped(),
            joins_ranks: false,
        })
    }
}
