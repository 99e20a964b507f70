//! From a record to its tensor.

use rayon::prelude::*;

use super::{Dump, Location, Problems, ProducerStats};
use crate::format::{self, atb_bin};
use crate::{Error, Result, Tensor, TensorInfo};

impl Dump {
    /// Locates the tensor of record `i`: its header is read and checked, its bytes are not read.
    ///
    /// # Errors
    /// A record without bytes, an unreadable or malformed file, no such member.
    ///
    /// # Panics
    /// When there is no record `i`.
    pub fn tensor(&self, i: usize) -> Result<Tensor> {
        let record = &self.records[i];
        let tensor = format::open_location(&record.location)?;
        match &record.info {
            Some(info) => Ok(retyped(tensor, info)),
            None => Ok(tensor),
        }
    }

    /// Fills dtype, shape and the producer's statistics of every record by reading the headers, in parallel.
    /// A header that cannot be read becomes a problem.
    pub fn describe(&mut self) {
        let wanted: Vec<usize> = (0..self.records.len())
            .filter(|&i| self.records[i].info.is_none() && self.records[i].location != Location::Nowhere)
            .collect();
        let found: Vec<Result<Described>> =
            wanted.par_iter().map(|&i| describe(&self.records[i].location)).collect();
        let mut problems = Problems::default();
        for (i, found) in wanted.into_iter().zip(found) {
            let record = &mut self.records[i];
            match found {
                Ok(found) => {
                    let path = record.location.path().unwrap_or(&self.root);
                    for note in &found.notes {
                        problems.count(&format!("with the note that {note}"), "file", path.display());
                    }
                    record.info = Some(found.info);
                    record.stats = record.stats.take().or(found.stats);
                }
                Err(error) => problems.add(error.to_string()),
            }
        }
        self.problems.extend(problems.into_texts());
    }
}

struct Described {
    info: TensorInfo,
    stats: Option<ProducerStats>,
    notes: Vec<String>,
}

fn describe(location: &Location) -> Result<Described> {
    // ATB's files describe tensors whose data they do not hold.
    if let Location::File(path) = location
        && path.extension().is_some_and(|suffix| suffix == "bin")
        && let Ok(header) = atb_bin::header(path)
    {
        return Ok(Described { info: header.info, stats: header.stats, notes: header.notes });
    }
    match location {
        Location::File(path) => {
            let contents = format::contents(path)?;
            match contents.entries.as_slice() {
                [entry] => match &entry.view {
                    Ok(view) => {
                        Ok(Described { info: view.info().clone(), stats: None, notes: view.notes().to_vec() })
                    }
                    Err(error) => Err(error.clone()),
                },
                several => {
                    let found = format!("{} of them", several.len());
                    Err(Error::malformed(path, "content", "one tensor", found))
                }
            }
        }
        location => {
            let tensor = format::open_location(location)?;
            Ok(Described { info: tensor.info, stats: None, notes: tensor.notes })
        }
    }
}

/// The tensor as the dump describes it, where its file holds the same bytes in another shape, or could only hold
/// them under another type: safetensors has no complex128 and keeps it as pairs of float64.
fn retyped(tensor: Tensor, info: &TensorInfo) -> Tensor {
    let reshaped = tensor.info.dtype == info.dtype && tensor.info.checked_numel() == info.checked_numel();
    if reshaped && tensor.strides.is_none() {
        return Tensor { info: TensorInfo { acl_format: tensor.info.acl_format, ..info.clone() }, ..tensor };
    }
    let pairs = tensor.info.shape.last() == Some(&2)
        && info.checked_numel().and_then(|n| n.checked_mul(2)) == tensor.info.checked_numel()
        && info.dtype.size() == 2 * tensor.info.dtype.size();
    if pairs && tensor.strides.is_none() && tensor.first.is_multiple_of(2) {
        return Tensor { info: info.clone(), first: tensor.first / 2, ..tensor };
    }
    tensor
}
