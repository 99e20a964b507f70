//! Mapped views for hand-over and positional reads for scans.

pub mod computed;
pub mod map;
pub mod reader;
