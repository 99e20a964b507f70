//! Mapped views for hand-over and positional reads for scans.

pub mod map;
pub mod reader;
