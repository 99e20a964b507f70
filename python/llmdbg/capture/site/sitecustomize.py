"""Runs first in every Python process of a command started by `llmdbg dump`.

The interpreter imports it because this directory leads PYTHONPATH. It uses the standard library
alone: the command may run under an interpreter that has no llmdbg.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator


def _prime_probe() -> None:
    """Let a probe that is configured by a file read it before the first operation.

    It learns the file's name in `IsTensorNeedSave` and reads it in `UpdateConfig`, at the first
    call or after 16384 more. ATB calls `UpdateConfig` first, so that without this the first 16384
    operations would go unrecorded.
    """
    import ctypes

    loaded = ctypes.CDLL(None)
    for name in (
        "_ZN3atb5Probe16IsTensorNeedSaveERKSt6vectorIlSaIlEERKSs",
        "_ZN3atb5Probe16IsTensorNeedSaveERKSt6vectorIlSaIlEERKNSt7__cxx1112basic_string"
        "IcSt11char_traitsIcESaIcEEE",
    ):
        try:
            need_save = getattr(loaded, name)
            update = loaded._ZN3atb5Probe12UpdateConfigEv
        except AttributeError:
            continue
        need_save.restype = ctypes.c_bool
        update.restype = None
        ids = (ctypes.c_void_p * 3)()  # an empty std::vector<long>
        with _stdout_kept():
            need_save(ids, _empty_string(new_abi="cxx11" in name))
            update()
        _leave_trace("primed")


@contextlib.contextmanager
def _stdout_kept() -> Iterator[None]:
    """Send what the probe prints to stderr: another program may be reading this one's output."""
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # closed
        yield
        return
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _leave_trace(what: str) -> None:
    """Tell the process that started the command what happened here."""
    directory = os.environ.get("LLMDBG_TRACE")
    if directory:
        with contextlib.suppress(OSError), open(f"{directory}/{what}.{os.getpid()}", "w"):  # noqa: PTH123
            pass


def _empty_string(*, new_abi: bool) -> ctypes.Array:  # type: ignore[type-arg]
    """Lay out an empty `std::string` of the new ABI (pointer, length, buffer) or the old one."""
    import ctypes

    words = (ctypes.c_size_t * 8)()
    own = ctypes.addressof(words)
    inline_buffer, counted_buffer = own + 2 * 8, own + 4 * 8
    words[0] = inline_buffer if new_abi else counted_buffer
    return words


def _chain() -> None:
    """Run the sitecustomize that this one hides, and leave no trace on the module path."""
    here = os.path.realpath(os.path.dirname(__file__))  # noqa: PTH120
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("LLMDBG_PRIME_PROBE"):
    try:
        _prime_probe()
    except OSError as error:
        print(f"llmdbg: cannot reach ATB's probe in this process: {error}", file=sys.stderr)  # noqa: T201
if os.environ.get("LLMDBG_CAPTURE"):
    try:
        from llmdbg.capture.injector import install
    except ImportError as error:
        print(f"llmdbg: torch is not recorded in {sys.executable}: {error}", file=sys.stderr)  # noqa: T201
    else:
        install()
_chain()
