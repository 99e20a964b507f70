//! The measuring kernels.

pub mod block32;
pub mod block64;
pub mod decode;
pub mod kl;
pub mod pair;
pub mod side;
pub mod ulp;
