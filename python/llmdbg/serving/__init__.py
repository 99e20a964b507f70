"""Recording requests that a vLLM server answers, without editing vLLM or the server.

vLLM calls `register` in every process it starts, by the entry point group
``vllm.general_plugins``. The environment says what is recorded; without
``LLMDBG_SERVING_DUMP`` nothing happens.
"""

from __future__ import annotations

import os

from llmdbg.serving.requests import RequestRows, request_rows

__all__ = ["RequestRows", "register", "request_rows"]

DUMP = "LLMDBG_SERVING_DUMP"


def register() -> None:
    """Record what the environment asks for as soon as a model runner of vLLM runs.

    Called again in the same process it does nothing, as vLLM demands of its plugins. A setting
    that cannot be right is logged; the server starts without being recorded.
    """
    if not os.environ.get(DUMP):
        return
    from llmdbg.errors import UserError
    from llmdbg.serving.runners import install, log
    from llmdbg.serving.settings import settings_from

    try:
        install(settings_from(os.environ))
    except UserError as error:
        log.error("nothing is recorded: %s", error)
