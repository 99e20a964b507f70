"""Reports: one model, and pure functions from it to each kind of output."""
