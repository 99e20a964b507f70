//! Planning and running a comparison of two dumps.

mod journal;
mod measures;
mod merge;
mod part;
mod plan;
mod prepare;
mod run;
mod twins;

pub use journal::Journal;
pub use measures::{COLUMNS, Column, Get, Measures, columns};
pub use plan::Sizes;
pub use run::{Open, Options, Progress, Row, row_profile, run};

#[cfg(test)]
mod tests;
