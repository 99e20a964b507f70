"""The ``llmdbg`` command. Imports nothing heavy: a command imports what it needs when it runs."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code: 0 clean, 1 findings, 2 error."""
    # Next to nothing that imports make is garbage: looking for it costs a twentieth of a short run.
    gc.set_threshold(200_000)
    try:
        for stream in (sys.stdout, sys.stderr):
            # A name in a dump may hold what the terminal's encoding does not.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from llmdbg.cli.app import app

        app(prog_name="llmdbg")
    except KeyboardInterrupt:
        sys.stderr.write("llmdbg: interrupted\n")
        sys.exit(2)
    except Exception:
        import traceback

        # Python's own code for this would be 1, which says that the runs differ.
        traceback.print_exc()
        sys.stderr.write("llmdbg: this is a mistake in llmdbg, please report it with the above\n")
        sys.exit(2)
    finally:
        # What lives until here ends with the process: looking for garbage in it takes 50 ms more.
        gc.freeze()
