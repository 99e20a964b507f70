//! Tensor file formats: one file each.
