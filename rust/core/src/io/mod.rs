//! Mapped views for hand-over, positional reads for scans, and what tells one tensor's bytes from another's.

pub mod computed;
pub mod map;
pub mod place;
pub mod reader;
