//! The measuring kernels.
