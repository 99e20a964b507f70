"""The call that users of ``ait llm`` know: ``register_hook(model, DumpConfig(...))``."""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmdbg._core import LlmdbgError
from llmdbg.capture.ait import AitSink, process_folder
from llmdbg.capture.api import name_of
from llmdbg.capture.calls import CaptureWarning
from llmdbg.capture.modules import no_match
from llmdbg.capture.session import TorchCapture
from llmdbg.capture.start import DEFAULT_QUEUE_BYTES
from llmdbg.capture.wanted import Wanted
from llmdbg.capture.what import What

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmdbg.capture.api import Level

_ROOT = "ait_dump"
_INPUTS, _OUTPUTS, _BOTH = 0, 1, 2
_TENSORS, _STATISTICS, _TENSORS_AND_STATISTICS = 0, 1, 2


@dataclass
class DumpConfig:
    """What to record, in the words of ``ait llm``.

    Parameters
    ----------
    dump_path
        The directory below which ``ait_dump`` is made.
    token_range
        Numbers of the root's forwards to record, from 0.
    module_list
        Module classes to record; empty for all.
    api_list
        Functions to record with ``mode="api"``, themselves or their names; empty for all.
    tensor_part
        0 for inputs, 1 for outputs, 2 for both.
    device_id
        Record only tensors of the device with this index; tensors of the CPU are always kept.
    dump_last_logits
        Record only what the last submodule gives back.
    mode
        ``"module"``, ``"api"``, or a list of both: what modules or what functions are given and
        give.
    dump_weight
        Record parameters and buffers too.
    layer_name
        Record modules whose full name (``root.model.layers.0.mlp``) matches; ``*`` stands for any
        text.
    analyze
        Not supported: ``llmdbg scan-anomaly`` reads more of a dump than its table said.
    dump_statistics_mode
        0 for tensors, 1 for ``statistics.csv``, 2 for both.
    seed
        Seed torch's generators and choose its deterministic algorithms before recording.

    Raises
    ------
    LlmdbgError
        If an option cannot be right or is not supported.
    """

    dump_path: str | Path = "./"
    token_range: Sequence[int] = (0,)
    module_list: Sequence[type[torch.nn.Module]] = ()
    api_list: Sequence[Any] = ()
    tensor_part: int = _BOTH
    device_id: int | None = None
    dump_last_logits: bool = False
    mode: str | Sequence[str] = field(default_factory=lambda: ["module"])
    dump_weight: bool = False
    layer_name: str | None = None
    analyze: bool = False
    dump_statistics_mode: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.tensor_part not in (_INPUTS, _OUTPUTS, _BOTH):
            raise LlmdbgError(
                f"tensor_part is 0 (inputs), 1 (outputs) or 2 (both), found {self.tensor_part!r}"
            )
        modes = [self.mode] if isinstance(self.mode, str) else list(self.mode)
        unknown = [m for m in modes if m not in ("module", "api")]
        if unknown or not modes:
            raise LlmdbgError(f'mode is "module" or "api", found {self.mode!r}')
        for cls in self.module_list:
            if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
                raise LlmdbgError(f"module_list holds classes of torch modules, found {cls!r}")
        if self.device_id is not None and self.device_id < 0:
            raise LlmdbgError(f"device_id is counted from 0, found {self.device_id}")
        if self.api_list and "api" not in modes:
            raise LlmdbgError(
                f'api_list chooses functions, which mode="api" records; mode is {modes}'
            )
        if self.dump_statistics_mode not in (_TENSORS, _STATISTICS, _TENSORS_AND_STATISTICS):
            raise LlmdbgError(
                "dump_statistics_mode is 0 (tensors), 1 (statistics) or 2 (both), "
                f"found {self.dump_statistics_mode!r}"
            )
        if self.analyze:
            raise LlmdbgError(
                "analyze is not supported; record with dump_statistics_mode=1 or 2, or run "
                "`llmdbg scan-anomaly` on the dump"
            )


class HookHandle:
    """What :func:`register_hook` gives back."""

    def __init__(self, capture: TorchCapture | None, path: Path) -> None:
        self.path = path
        self._capture = capture

    def remove(self) -> Path:
        """Take the hooks off and finish the dump, which otherwise happens when Python exits.

        Returns
        -------
        Path
            The dump.

        Raises
        ------
        LlmdbgError
            If recording had to stop early; the message says why and how much is there.
        """
        if self._capture is not None:
            self._capture.stop()
        return self.path


def register_hook(
    model: torch.nn.Module, config: DumpConfig, hook_type: str = "dump_data"
) -> HookHandle:
    """Record the modules of `model` in the layout of ``ait llm`` from now on.

    Parameters
    ----------
    model
        The module whose forwards are the tokens, counted from 0.
    config
        What to record and where.
    hook_type
        ``"dump_data"``, the only one.

    Returns
    -------
    HookHandle
        Its ``remove()`` ends the recording; so does the end of the program.

    Raises
    ------
    LlmdbgError
        If an argument cannot be right.
    OSError
        If the path cannot be written.
    """
    if hook_type != "dump_data":
        raise LlmdbgError(f'hook_type is "dump_data", found {hook_type!r}')
    selected = _select(model, config)
    base = Path(config.dump_path)
    devices = {t.device for t in (*model.parameters(), *model.buffers())}
    indices = {d.index for d in devices if d.index is not None}
    if config.device_id is not None and indices and config.device_id not in indices:
        text = f"nothing is recorded: device_id={config.device_id}, the model is on {devices}"
        warnings.warn(text, CaptureWarning, stacklevel=2)
        return HookHandle(None, base)
    if config.seed is not None:
        torch.manual_seed(config.seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
    modes = {config.mode} if isinstance(config.mode, str) else set(config.mode)
    levels: tuple[Level, ...] = ("module", "api")
    capture = TorchCapture(
        model,
        lambda header: AitSink(
            _free_root(base, header),
            header,
            DEFAULT_QUEUE_BYTES,
            tensors=config.dump_statistics_mode != _STATISTICS,
            statistics=config.dump_statistics_mode != _TENSORS,
        ),
        path=base,
        what=What(
            selected=selected,
            wanted=Wanted(steps=config.token_range),
            levels=frozenset(level for level in levels if level in modes),
            apis=tuple(p for api in config.api_list for p in _patterns(api)) or None,
            device_index=config.device_id,
            weights=config.dump_weight,
            inputs=config.tensor_part != _OUTPUTS,
            outputs=config.tensor_part != _INPUTS,
            last_logits=config.dump_last_logits,
        ),
    )
    capture.start()
    return HookHandle(capture, base)


def _patterns(api: Any) -> tuple[str, ...]:
    """Patterns over names of functions, as full as the caller spelled it."""
    name = api if isinstance(api, str) else name_of(api)
    return name, f"*.{name}"


def _select(model: torch.nn.Module, config: DumpConfig) -> dict[torch.nn.Module, str]:
    named = {module: name for name, module in model.named_modules()}
    chosen = named
    if config.module_list:
        classes = tuple(config.module_list)
        chosen = {m: n for m, n in chosen.items() if isinstance(m, classes)}
        if not chosen:
            raise LlmdbgError(no_match(named, classes[0]))
    if config.layer_name is not None:
        pattern = ".*".join(re.escape(part) for part in config.layer_name.split("*"))
        matches = re.compile(pattern).fullmatch
        chosen = {m: n for m, n in chosen.items() if matches(f"root.{n}" if n else "root")}
        if not chosen:
            rooted = {m: f"root.{n}" if n else "root" for m, n in named.items()}
            raise LlmdbgError(no_match(rooted, config.layer_name))
    return chosen


def _free_root(base: Path, header: dict[str, Any]) -> Path:
    """`ait_dump`, or a root with a time in its name if this process has a dump there already."""
    root = base / _ROOT
    stamp = int(time.time())
    while process_folder(root, header).exists():
        root = base / f"{_ROOT}_{stamp}"
        stamp += 1
    return root
