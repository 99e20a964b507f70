"""``python -m llmdbg`` is ``llmdbg``."""

from llmdbg.cli import main

main()
