//! The health of single tensors: one pass that counts what is wrong or about to go wrong, and byte comparison.
#![allow(
    clippy::inline_always,
    reason = "a helper must become part of the kernel compiled for one instruction set"
)]

mod bytes;
mod float;
mod format;
mod health;
mod integer;
mod layout;
mod part;
mod repeats;
mod run;
mod sums;

pub use bytes::{ByteDifference, byte_differences};
pub use health::{Class, Health};
pub use run::{Open, Options, Row, scan};
