"""Kernel-level dumps and overflow flags of Ascend devices, through torch_npu.

torch_npu is imported when one of these is called, and its absence is explained.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STATISTICS = ("Max", "Min", "Avg", "Nan", "Negative Inf", "Positive Inf", "L2norm")
_PATH_LENGTH = 512


def acl_dump_config(
    dump_path: str | Path,
    *,
    mode: Literal["input", "output", "all"] = "all",
    data: Literal["tensor", "stats"] = "tensor",
    level: Literal["op", "kernel", "all"] = "all",
    steps: Sequence[int | tuple[int, int]] = (),
    statistics: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    model: str | None = None,
    overflow: bool = False,
) -> dict[str, Any]:
    """Give the object that CANN's dump takes as `acl.json`.

    Parameters
    ----------
    dump_path
        Existing directory for the dump.
    mode
        Which side of each operator.
    data
        Tensors, or statistics of them.
    level
        Operators, kernels, or both.
    steps
        Steps and inclusive ranges of steps, counted from 0; all when empty.
    statistics
        Any of `STATISTICS`, with `data="stats"`.
    layers
        Operators of an offline model `model` to dump; single operators of eager torch when None.
    model
        The model that `layers` belong to.
    overflow
        Dump only what overflowed.

    Returns
    -------
    dict
        The whole object, with the key `dump`.

    Raises
    ------
    UserError
        When the combination is one that CANN refuses.
    """
    path = str(Path(dump_path).absolute())
    if len(path) > _PATH_LENGTH:
        raise UserError(f"CANN takes dump paths up to {_PATH_LENGTH} characters: {path}")
    for name, value, known in (
        ("mode", mode, ("input", "output", "all")),
        ("data", data, ("tensor", "stats")),
        ("level", level, ("op", "kernel", "all")),
    ):
        if value not in known:
            raise UserError(f"{name} is one of {', '.join(known)}, found {value!r}")
    unknown = sorted(set(statistics) - set(STATISTICS))
    if unknown:
        raise UserError(f"statistics are any of {', '.join(STATISTICS)}, found {unknown[0]!r}")
    if statistics and data != "stats":
        raise UserError('statistics are taken with data="stats" only')
    if (layers is None) != (model is None):
        raise UserError("layers and model belong together: name both, or neither")
    dump: dict[str, Any] = {
        "dump_path": path,
        "dump_mode": mode,
        "dump_data": data,
        "dump_level": level,
        "dump_list": [] if layers is None else [{"model_name": model, "layer": list(layers)}],
    }
    if overflow:
        # The two switches exclude each other.
        dump["dump_debug"] = "on"
    elif layers is None:
        dump["dump_op_switch"] = "on"
    if steps:
        dump["dump_step"] = _steps(steps)
    if statistics:
        dump["dump_stats"] = list(statistics)
    return {"dump": dump}


@contextlib.contextmanager
def kernel_dump(dump_path: str | Path, **options: Any) -> Iterator[Path]:
    """Dump every kernel that torch runs on the NPU inside the `with` block.

    Parameters
    ----------
    dump_path
        Directory for the dump and its `acl_<time>_<process>.json`; made when missing.
    **options
        As `acl_dump_config` takes them.

    Yields
    ------
    Path
        The generated configuration file.

    Raises
    ------
    UserError
        When torch_npu or CANN is missing, or an option cannot be right.
    """
    directory = Path(dump_path).absolute()
    config = acl_dump_config(directory, **options)
    npu = _npu()
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    file = directory / f"acl_{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}_{os.getpid()}.json"
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # Kernels run behind the host: without waiting, earlier ones would be dumped and late ones not.
    npu.synchronize()
    npu.init_dump()
    try:
        npu.set_dump(str(file))
        npu.synchronize()
        yield file
        npu.synchronize()
    finally:
        npu.finalize_dump()


def overflow_happened(*, clear: bool = True) -> bool:
    """Tell whether a kernel has overflowed on this device since the flag was last cleared.

    Parameters
    ----------
    clear
        Clear the flag when it was set.

    Raises
    ------
    UserError
        When torch_npu or CANN is missing, or the device keeps infinities and sets no flag.
    """
    npu = _npu()
    if npu.utils.is_support_inf_nan():
        raise UserError(
            "this device runs in INF_NAN mode and sets no overflow flag; look for infinities in "
            "the tensors instead (`llmdbg scan-anomaly`), or set INF_NAN_MODE_ENABLE=0"
        )
    npu.synchronize()
    found = bool(npu.get_npu_overflow_flag())
    if found and clear:
        npu.clear_npu_overflow_flag()
    return found


def _npu() -> Any:
    try:
        import torch_npu
    except (ImportError, OSError) as error:
        raise UserError(
            f"torch_npu cannot be imported ({error}). It needs an Ascend device, its driver and "
            "CANN (source the toolkit's set_env.sh), and `pip install 'llmdbg-ascend[npu]'`"
        ) from error
    return torch_npu.npu


def _steps(steps: Sequence[int | tuple[int, int]]) -> str:
    parts = [f"{s[0]}-{s[1]}" if isinstance(s, tuple) else str(s) for s in steps]
    if len(parts) > 100 or not all(re.fullmatch(r"\d+(-\d+)?", part) for part in parts):
        raise UserError(
            f"steps are up to 100 numbers or (first, last) pairs counted from 0, found {steps!r}"
        )
    return "|".join(parts)
