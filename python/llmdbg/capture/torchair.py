"""Compiler settings that make torchair dump: whole GE graphs on the device, or FX nodes one by one.

Use the result as ``torchair.get_npu_backend(compiler_config=config)``. torchair's configuration
refuses unknown names and renamed some between releases; both spellings are handled.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GE_DIRECTORY, FX_DIRECTORY = "llmdbg_ge_dump", "llmdbg_fx_dump"
_LAYER = re.compile(r"[0-9a-zA-Z_/\\.]+")


def get_ge_dump_config(
    dump_path: str | Path = "",
    dump_mode: Literal["all", "input", "output"] = "all",
    fusion_switch_file: str | Path | None = None,
    dump_token: Iterable[int] | None = None,
    dump_layer: Iterable[str] | None = None,
    compiler_config: Any = None,
) -> Any:
    """Make torchair's GE backend dump the tensors and the graph of every execution.

    Parameters
    ----------
    dump_path
        The dump goes to `llmdbg_ge_dump` below it; the current directory by default.
    dump_mode
        Which side of each operator.
    fusion_switch_file
        A JSON file that turns fusion passes on or off (`write_fusion_switch`).
    dump_token
        Executions to dump, counted from 0; None for all.
    dump_layer
        Names of GE operators to dump; None for all.
    compiler_config
        A `torchair.CompilerConfig` to add to; a new one by default.

    Returns
    -------
    torchair.CompilerConfig
        The configuration with dumping switched on.

    Raises
    ------
    UserError
        When an argument cannot be right, torchair is missing, or too old for an option.
    """
    if dump_mode not in ("all", "input", "output"):
        raise UserError(f"dump_mode is all, input or output, found {dump_mode!r}")
    steps = None if dump_token is None else _steps(dump_token)
    layers = None if dump_layer is None else _layers(dump_layer)
    switch = None if fusion_switch_file is None else _existing(fusion_switch_file)
    config = compiler_config if compiler_config is not None else _new_config()
    directory = str(_directory(dump_path, GE_DIRECTORY))
    _set(config, "debug.graph_dump.type", "txt")
    _set_path(config, "debug.graph_dump", directory)
    if switch is not None:
        _set(config, "fusion_config.fusion_switch_file", str(switch))
    _set(config, "dump_config.enable_dump", True)
    _set(config, "dump_config.dump_mode", dump_mode)
    _set(config, "dump_config.dump_path", directory)
    if steps is not None:
        _set(config, "dump_config.dump_step", steps)
    if layers is not None:
        _set(config, "dump_config.dump_layer", layers)
    return config


def get_fx_dump_config(
    dump_path: str | Path = "",
    op_list: Iterable[str] | None = None,
    compiler_config: Any = None,
) -> Any:
    """Make torchair run the FX graph node by node and dump each node's inputs and outputs.

    Parameters
    ----------
    dump_path
        The dump goes to `llmdbg_fx_dump` below it. A torchair without a path for it writes to
        `data_dump` in the current directory, and a warning says so.
    op_list
        Parts of node names, in any case; only nodes that contain one are dumped. None for all.
    compiler_config
        A `torchair.CompilerConfig` to add to; a new one by default.

    Returns
    -------
    torchair.CompilerConfig
        The configuration with dumping switched on.

    Raises
    ------
    UserError
        When torchair is missing, or too old for an option.
    """
    config = compiler_config if compiler_config is not None else _new_config()
    directory = _directory(dump_path, FX_DIRECTORY)
    _set(config, "debug.data_dump.type", "npy")
    try:
        _set_path(config, "debug.data_dump", str(directory))
    except UserError:
        directory.rmdir()
        warnings.warn(
            "this torchair has no path for FX dumps; it writes to data_dump in the current "
            f"directory, {Path.cwd()}",
            stacklevel=2,
        )
    if op_list is not None:
        wanted = tuple(part.lower() for part in op_list)

        def keep(node: Any) -> Any:
            return node if any(part in str(node.name).lower() for part in wanted) else None

        _set(config, "debug.data_dump.filter", keep)
    return config


def write_fusion_switch(
    path: str | Path,
    *,
    graph_fusion: Mapping[str, bool] | None = None,
    ub_fusion: Mapping[str, bool] | None = None,
) -> Path:
    """Write a fusion switch file; without arguments it turns off all fusion that can be.

    Some passes are mandatory, so that a graph compiled with all off still has fused operators.

    Parameters
    ----------
    path
        The file to write.
    graph_fusion, ub_fusion
        Passes by name, on or off; `ALL` stands for every pass not named. `{"ALL": False}` by
        default.

    Returns
    -------
    Path
        The file, absolute.
    """
    switches = {
        "GraphFusion": {"ALL": False} if graph_fusion is None else graph_fusion,
        "UBFusion": {"ALL": False} if ub_fusion is None else ub_fusion,
    }
    text = {
        kind: {name: "on" if on else "off" for name, on in passes.items()}
        for kind, passes in switches.items()
    }
    file = Path(path).absolute()
    file.write_text(json.dumps({"Switch": text}, indent=2) + "\n", encoding="utf-8")
    return file


def _new_config() -> Any:
    try:
        import torchair
    except ImportError as error:
        raise UserError(
            f"torchair is needed to dump compiled graphs, and cannot be imported ({error}); it "
            "comes with torch_npu (`pip install 'llmdbg-ascend[npu]'`, with CANN installed)"
        ) from error
    return torchair.CompilerConfig()


def _set(config: Any, option: str, value: Any) -> None:
    *parents, name = option.split(".")
    owner = config
    for parent in parents:
        owner = getattr(owner, parent, None)
    # Reading tells what exists: torchair refuses to set what its release does not know.
    if owner is None or not hasattr(owner, name):
        raise UserError(f"this torchair has no option {option}; update torch_npu to use it")
    setattr(owner, name, value)


def _set_path(config: Any, option: str, directory: str) -> None:
    """Set `path`, which torchair called `_path` for a while."""
    try:
        _set(config, f"{option}.path", directory)
    except UserError:
        _set(config, f"{option}._path", directory)


def _directory(dump_path: str | Path, name: str) -> Path:
    directory = Path(dump_path).absolute() / name
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        warnings.warn(
            f"something is there already, and the new dump will lie beside it: {directory}",
            stacklevel=3,
        )
    return directory


def _existing(path: str | Path) -> Path:
    file = Path(path).absolute()
    if not file.is_file():
        raise UserError(f"no such fusion switch file; write_fusion_switch makes one: {file}")
    return file


def _steps(tokens: Iterable[int]) -> str:
    numbers = list(tokens)
    if not numbers or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise UserError(f"dump_token is a list of executions counted from 0, found {numbers!r}")
    return "|".join(map(str, numbers))


def _layers(layers: Iterable[str]) -> str:
    if isinstance(layers, str):
        raise UserError(f"dump_layer is a list of operator names, found the text {layers!r}")
    names = list(layers)
    odd = [name for name in names if not _LAYER.fullmatch(name)]
    if odd or not names:
        raise UserError(
            f"dump_layer is a list of names of letters, digits and _ / \\ ., found {odd or names!r}"
        )
    return " ".join(names)
