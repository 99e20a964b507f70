//! The engine of llmdbg: reads dumps of tensors, describes the graphs they came from,
//! and measures pairs of tensors at the speed of the disk. It knows nothing of Python.

pub mod align;
pub mod compare;
pub mod dtype;
pub mod dump;
pub mod error;
pub mod format;
pub mod graph;
pub mod io;
mod parts;
pub mod scan;
pub mod stats;
pub mod tensor;

pub use dtype::DType;
pub use error::{Error, Result};
pub use tensor::{Storage, Tensor, TensorInfo};
