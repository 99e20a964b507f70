"""Types of the Rust extension. Every function releases the GIL while it reads or computes."""

__version__: str
