//! The measuring kernels.
#![allow(
    clippy::inline_always,
    reason = "a helper must become part of the kernel compiled for one instruction set"
)]

pub mod block32;
pub mod block64;
pub mod decode;
pub mod describe;
pub mod kl;
pub mod pair;
pub mod side;
pub mod summary;
pub mod ulp;
