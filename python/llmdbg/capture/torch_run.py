"""Recording torch in a command: the settings it is started with, and what it left behind."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg.capture.injector import SETTINGS, TorchSettings
from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmdbg.capture.atb import AtbDumpOptions
    from llmdbg.capture.launch import Command

# Holds the sitecustomize that every Python process of the command runs.
SITE = Path(__file__).parent / "site"


def torch_settings(
    options: AtbDumpOptions, *, now: float, weights: bool, root: str
) -> TorchSettings:
    """Translate the options of a recording into settings for torch.

    Parameters
    ----------
    options
        What to record; `names` are patterns over module and class names.
    now
        Seconds since the epoch; names the dump.
    weights
        Also the parameters.
    root
        Pattern over the class name of the model.

    Raises
    ------
    UserError
        When no step is asked for.
    """
    if options.executions == "none":
        raise UserError("--execute-range none records nothing of torch")
    steps = None
    if options.executions != "all":
        numbers = [int(part) for part in options.executions.split(",")]
        steps = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    moment = now
    while (path := options.output / f"torch_dump_{_timestamp(moment)}").exists():
        moment += 1
    return TorchSettings(
        path=str(path),
        steps=steps,
        modules=tuple(part for part in options.names.split(",") if part),
        inputs=options.part != 1,
        outputs=options.part != 0,
        weights=weights,
        devices=tuple(part for part in options.device.split(",") if part),
        root=root,
    )


def torch_environment(settings: TorchSettings, base_env: Mapping[str, str]) -> dict[str, str]:
    """Give the environment in which every Python process records the first model it calls."""
    # An empty element would put the working directory on the module path.
    paths = [path for path in base_env.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {
        **base_env,
        SETTINGS: settings.to_text(),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(SITE), *paths])),
    }


def refuse_isolated(command: Command) -> None:
    """Refuse a Python that is told to ignore what would start the recording.

    Raises
    ------
    UserError
        When the command is Python with ``-I``, ``-E`` or ``-S``.
    """
    if not re.fullmatch(r"(python|pypy)[\d.]*", Path(command.argv[0]).name):
        return
    isolating = _isolating_option(command.argv[1:])
    if isolating:
        raise UserError(
            f"python {isolating} ignores the environment, through which torch is recorded without "
            f"editing the script; leave {isolating} out, or call llmdbg.capture_torch in the "
            f"script: {command}"
        )


def _isolating_option(arguments: Sequence[str]) -> str:
    """Return Python's own option, before the script, that hides our settings; else nothing."""
    rest = iter(arguments)
    for argument in rest:
        if argument == "--check-hash-based-pycs":
            next(rest, None)
        if argument in ("-", "--") or not argument.startswith("-"):
            return ""
        if argument.startswith("--"):
            continue
        for i, letter in enumerate(argument[1:], 2):
            if letter in "IES":
                return f"-{letter}"
            if letter in "cm":
                return ""
            if letter in "WX":
                # Its value: the rest of the word, or the next one.
                if i == len(argument):
                    next(rest, None)
                break
    return ""


def recorded_paths(trace: Path) -> list[Path]:
    """List the dumps that the command's processes finished, without doubles."""
    return sorted({Path(facts["path"]) for facts in _facts(trace, "torch")})


def problems(trace: Path) -> list[str]:
    """List what the processes said of their recordings, without doubles."""
    found = [str(text) for facts in _facts(trace, "torch") for text in facts["problems"]]
    return list(dict.fromkeys(found))


def why_no_torch(trace: Path, settings: TorchSettings) -> str:
    """Say in one line why no process recorded torch."""
    reasons = [str(facts["reason"]) for facts in _facts(trace, "torch-failed")]
    if reasons:
        return reasons[0]
    devices = sorted({str(facts["device"]) for facts in _facts(trace, "torch-other-device")})
    if devices:
        return (
            f"--device-id {','.join(settings.devices)} matches none of the devices that ran: "
            f"{', '.join(devices)}"
        )
    if _facts(trace, "torch-imported"):
        wanted = f"of a class {settings.root}" if settings.root else "with submodules"
        return f"torch was imported, but no torch module {wanted} was called, or its process died"
    return (
        "no Python process of the command imported torch (python -I, -E and -S cannot be recorded)"
    )


def _facts(trace: Path, what: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted(trace.glob(f"{what}.*")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue  # a process that died while writing it
    return found


def _timestamp(moment: float) -> str:
    return time.strftime("%Y%m%d_%H%M%S", time.gmtime(moment))
