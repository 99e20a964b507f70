"""Types of the Rust extension. Every function releases the GIL while it reads or computes."""

__version__: str

class LlmdbgError(ValueError):
    """A file or argument that llmdbg cannot work with; the message says why and what to do.

    What the operating system refuses is raised as the matching subclass of `OSError` instead.
    """
