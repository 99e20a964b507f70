//! Joining the parts of a pair in their order.

use super::part::PartSums;
use super::plan::{Part, Plan};
use crate::stats::pair::{PairSums, RowSums, relative_l2};

/// The sums of a whole pair.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) sums: PairSums,
    pub(super) same_bytes: bool,
    pub(super) has_ulp: bool,
    /// Row and its relative L2.
    pub(super) worst_row: Option<(u64, f64)>,
    /// Channel and its relative L2.
    pub(super) worst_channel: Option<(u64, f64)>,
    /// Row and its divergence.
    pub(super) max_kl: Option<(u64, f64)>,
    /// Sum of the rows' divergences.
    pub(super) kl: f64,
    /// Rows with a divergence.
    pub(super) kl_rows: u64,
}

/// Takes parts in order.
#[derive(Debug)]
pub(super) struct Merger {
    merged: Merged,
    has_kl: bool,
    components: u64,
    segments: u64,
    /// Rows of a pair whose rows span several parts.
    rows: Vec<RowSums>,
    channels: Vec<f64>,
    first_channel: u64,
    /// Every row's relative L2 when asked for.
    profile: Option<Vec<f64>>,
}

impl Merger {
    pub(super) fn new(plan: &Plan, components: u64, has_ulp: bool, has_kl: bool, profile: bool) -> Self {
        Self {
            merged: Merged {
                sums: PairSums::default(),
                same_bytes: true,
                has_ulp,
                worst_row: None,
                worst_channel: None,
                max_kl: None,
                kl: 0.0,
                kl_rows: 0,
            },
            has_kl,
            components,
            segments: plan.segments(),
            rows: Vec::new(),
            channels: Vec::new(),
            first_channel: 0,
            profile: profile.then(Vec::new),
        }
    }

    pub(super) fn add(&mut self, part: Part, sums: PartSums) {
        self.merged.sums.merge(&sums.sums);
        self.merged.same_bytes &= sums.same_bytes;
        if self.segments == 1 {
            self.close_rows(part.row, &sums.rows);
        } else {
            let end = part.row as usize + sums.rows.len();
            if self.rows.len() < end {
                self.rows.resize(end, RowSums::default());
            }
            for (row, piece) in self.rows[part.row as usize..].iter_mut().zip(&sums.rows) {
                row.merge(piece);
            }
        }
        if part.col != self.first_channel {
            self.close_channels();
            self.first_channel = part.col;
        }
        if self.channels.is_empty() {
            self.channels = sums.channels;
        } else {
            for (total, piece) in self.channels.iter_mut().zip(&sums.channels) {
                *total += piece;
            }
        }
    }

    pub(super) fn finish(mut self) -> (Merged, Vec<f64>) {
        let rows = std::mem::take(&mut self.rows);
        self.close_rows(0, &rows);
        self.close_channels();
        (self.merged, self.profile.unwrap_or_default())
    }

    fn close_rows(&mut self, first: u64, rows: &[RowSums]) {
        for (row, sums) in (first..).zip(rows) {
            let error = relative_l2(sums.dd, sums.aa);
            raise(&mut self.merged.worst_row, row, error);
            if let Some(profile) = &mut self.profile {
                profile.push(error);
            }
            if self.has_kl && sums.kl.count > 0 {
                let kl = sums.kl.divergence();
                self.merged.kl += kl;
                self.merged.kl_rows += 1;
                raise(&mut self.merged.max_kl, row, kl);
            }
        }
    }

    fn close_channels(&mut self) {
        let channels = std::mem::take(&mut self.channels);
        let (dd, aa) = channels.split_at(channels.len() / 2);
        let parts = self.components as usize;
        for (channel, (dd, aa)) in
            (self.first_channel / self.components..).zip(dd.chunks(parts).zip(aa.chunks(parts)))
        {
            let error = relative_l2(dd.iter().sum(), aa.iter().sum());
            raise(&mut self.merged.worst_channel, channel, error);
        }
    }
}

/// Keeps the larger value, the first on ties.
fn raise(best: &mut Option<(u64, f64)>, index: u64, value: f64) {
    if best.is_none_or(|(_, b)| value > b) && !value.is_nan() {
        *best = Some((index, value));
    }
}
