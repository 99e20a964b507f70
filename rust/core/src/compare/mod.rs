//! Planning and running a comparison of two dumps.
