//! Mapped views for hand-over and positional reads for scans.

<<<<<<< HEAD
pub mod map;
=======
pub mod reader;
>>>>>>> dc91c9f (Measure pairs of tensors in one pass, in parts that do not depend on the threads)
