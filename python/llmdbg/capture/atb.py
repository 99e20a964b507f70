"""What a person asks ATB to record, as the environment and configuration its probe reads.

Everything here is a pure function of the options: nothing is started, read or written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmdbg.capture.atb_probe import Probe, ProbeEra, ProbeError
from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DUMP_TYPES = ("model", "layer", "op", "kernel", "tensor", "cpu_profiling", "onnx", "stats")
LOG_LEVELS = ("debug", "info", "warning", "error", "fatal", "critical")
TENSOR_PARTS = {0: "inputs", 1: "outputs", 2: "inputs and outputs"}
# The probe renumbers from 1 in some builds and keeps the number in a C int.
_LAST_EXECUTION = 2_147_483_646
_JSON_PATH = re.compile(r"[A-Za-z0-9_./-]+")
_JSON_PATH_LENGTH, _JSON_PATH_LEVELS = 4096, 32


class OptionError(UserError):
    """An option whose value cannot be meant; the message says what is accepted."""


@dataclass(frozen=True)
class AtbDumpOptions:
    """What to record, in the terms of `ait llm dump`.

    Attributes
    ----------
    output
        Absolute directory the probe writes into.
    types
        Any of `DUMP_TYPES`.
    only_description
        Shapes and dtypes without data.
    ids
        Operation ids such as `2,3_1`; empty for all.
    executions
        `all`, `none` or pairs `first,last[,first,last…]`, inclusive, counted from 0.
    children
        Also the operations inside the chosen ones.
    time
        0 before, 1 after, 2 both, 3 inputs before and outputs after execution; None for the best
        the probe can do.
    names
        Operation name prefixes, comma separated; empty for all.
    tiling
        Also the kernels' tiling data.
    part
        0 inputs, 1 outputs, 2 both.
    device
        Device numbers, comma separated; empty for all.
    log_level
        One of `LOG_LEVELS`.
    seed
        Ask the Ascend libraries for deterministic results, with this hash seed.
    deduplicate
        Write equal tensors once.
    """

    output: Path
    types: tuple[str, ...] = ("tensor", "model")
    only_description: bool = False
    ids: str = ""
    executions: str = "0,0"
    children: bool = True
    time: int | None = None
    names: str = ""
    tiling: bool = False
    part: int = 2
    device: str = ""
    log_level: str = "info"
    seed: int | None = None
    deduplicate: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.types if name not in DUMP_TYPES]
        if unknown:
            raise OptionError(f"--type {unknown[0]}: expected any of {' '.join(DUMP_TYPES)}")
        if self.log_level not in LOG_LEVELS:
            raise OptionError(
                f"--log-level {self.log_level}: expected one of {' '.join(LOG_LEVELS)}"
            )
        if self.time not in (None, 0, 1, 2, 3):
            raise OptionError(f"--save-time {self.time}: expected 0, 1, 2 or 3")
        if self.part not in TENSOR_PARTS:
            raise OptionError(f"--save-tensor-part {self.part}: expected 0, 1 or 2")
        if self.ids and not re.fullmatch(r"\d+(_\d+)*(,\d+(_\d+)*)*", self.ids):
            raise OptionError(
                f"--save-operation-ids {self.ids}: expected numbers joined by _ for nesting and "
                "by , between operations, such as 2,3_1"
            )
        if self.device and not re.fullmatch(r"\d+(,\d+)*", self.device):
            raise OptionError(f"--device-id {self.device}: expected a number, or several with ,")
        object.__setattr__(self, "executions", checked_executions(self.executions))


def checked_executions(text: str) -> str:
    """Check an execution range and spell it the way every probe reads it.

    Parameters
    ----------
    text
        `all`, `none`, pairs `a,b[,c,d…]`, or a single number n, which means `n,n`.

    Returns
    -------
    str
        `all`, `none`, or an even count of numbers.

    Raises
    ------
    OptionError
        On an odd count above one (the probes drop the last number silently), on a pair that
        ends before it begins (it selects nothing, silently), or on anything but numbers.
    """
    if text in ("all", "none"):
        return text
    parts = text.split(",")
    if not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
        raise OptionError(
            f"--execute-range {text}: expected pairs of numbers such as 0,0 or 1,3,5,7, "
            "all, or none"
        )
    numbers = [int(part) for part in parts]
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) % 2:
        raise OptionError(
            f"--execute-range {text}: {len(numbers)} numbers do not make pairs; "
            f"to take one execution write {numbers[-1]},{numbers[-1]}"
        )
    for first, last in zip(numbers[::2], numbers[1::2], strict=True):
        if last < first:
            raise OptionError(f"--execute-range {text}: {first},{last} ends before it begins")
    return ",".join(map(str, numbers))


def probe_environment(
    options: AtbDumpOptions,
    probe: Probe,
    base_env: Mapping[str, str],
    *,
    timestamp: str,
    pid: int,
    preload: Sequence[Path] = (),
    config: Path | None = None,
) -> dict[str, str]:
    """Give the environment in which a probe of any era records what `options` ask for.

    Parameters
    ----------
    options
        What to record.
    probe
        The probe that will be preloaded.
    base_env
        The environment to start from; not changed.
    timestamp
        Text for the name of the dump's root directory.
    pid
        Number that keeps helper files of concurrent runs apart.
    preload
        The libraries to preload where that is not the probe alone (`preloadable`).
    config
        The JSON file for probes that read one.

    Returns
    -------
    dict of str to str
        `base_env` with the contract's variables set, and those that must be absent removed.
    """
    types = _types_for_environment(options)
    output = str(options.output)
    in_before_out_after = _effective_time(options, probe) == 3
    wanted: dict[str, str | None] = {
        "ATB_SAVE_TENSOR": "2" if options.only_description else "1",
        "ATB_SAVE_TENSOR_TIME": "1"
        if in_before_out_after
        else str(_effective_time(options, probe)),
        "ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER": _flag(in_before_out_after),
        "ATB_SAVE_TENSOR_IDS": options.ids or None,
        "ATB_SAVE_TENSOR_RUNNER": options.names.lower() or None,
        "ATB_OUTPUT_DIR": output.rstrip("/") + "/",
        "ATB_DUMP_TYPE": "|".join(types),
        "ATB_SAVE_TENSOR_STATISTICS": "1" if "stats" in types else None,
        "ATB_DUMP_SUB_PROC_INFO_SAVE_PATH": str(options.output / str(pid))
        if "onnx" in types
        else None,
        "ATB_SAVE_CHILD": _flag(options.children),
        "ATB_SAVE_TENSOR_RANGE": _executions_for_environment(options.executions, probe),
        "ATB_SAVE_TILING": _flag(options.tiling),
        "ATB_SAVE_TENSOR_PART": str(options.part),
        "ATB_SAVE_CPU_PROFILING": _flag("cpu_profiling" in types),
        "ATB_CUR_PID": str(pid),
        "ATB_DEVICE_ID": options.device or None,
        "ATB_AIT_LOG_LEVEL": str(LOG_LEVELS.index(options.log_level)),
        "ATB_SAVE_SYMLINK": _flag(options.deduplicate),
        "ATB_TIMESTAMP": timestamp,
        "ATB_DUMP_CONFIG": str(config) if config is not None else None,
        # Left over from an overflow check they would stop or alter the run.
        "ATB_CHECK_TYPE": None,
        "ATB_EXIT": None,
    }
    if options.seed is not None:
        wanted |= {
            "LCCL_DETERMINISTIC": "1",
            "HCCL_DETERMINISTIC": "true",
            "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
            "ATB_LLM_LCOC_ENABLE": "0",
            "PYTHONHASHSEED": str(options.seed),
        }
    return _applied(base_env, wanted, preload or [probe.path])


def overflow_environment(
    output: Path,
    probe: Probe,
    base_env: Mapping[str, str],
    *,
    stop: bool = False,
    log_level: str = "info",
    preload: Sequence[Path] = (),
) -> dict[str, str]:
    """Give the environment in which ATB checks every kernel for overflow while the model runs.

    Parameters
    ----------
    output
        Absolute directory; the probe writes `<ait|msit>_overflow_res_<pid>.txt` into it.
    probe
        The probe that will be preloaded.
    base_env
        The environment to start from; not changed.
    stop
        End the inference at the first overflow.
    log_level
        One of `LOG_LEVELS`.
    preload
        As in `probe_environment`.

    Raises
    ------
    ProbeError
        When this probe cannot check for overflow.
    """
    if probe.era is ProbeEra.JSON:
        raise ProbeError(
            "this probe answers no to ATB's overflow check, so nothing would be found. Use the "
            "probe of a CANN toolkit before 8.5 with --probe, or record the run with "
            f"`llmdbg dump` and scan the dump: {probe.path}"
        )
    if log_level not in LOG_LEVELS:
        raise OptionError(f"--log-level {log_level}: expected one of {' '.join(LOG_LEVELS)}")
    wanted: dict[str, str | None] = {
        "ATB_CHECK_TYPE": "1",
        "ATB_EXIT": _flag(stop),
        "ATB_OUTPUT_DIR": str(output).rstrip("/") or "/",
        "ATB_AIT_LOG_LEVEL": str(LOG_LEVELS.index(log_level)),
        # The oldest probes abort the process when this is not set at all.
        "ATB_DUMP_TYPE": "none",
        "ATB_SAVE_TENSOR_RANGE": None,
        "ATB_DUMP_CONFIG": None,
    }
    return _applied(base_env, wanted, preload or [probe.path])


def probe_config(options: AtbDumpOptions) -> dict[str, object]:
    """Give the same options as the JSON object of a probe that is configured by a file."""
    if "tensor" in options.types and not options.only_description:
        task = "all" if "stats" in options.types else "tensor"
    else:
        task = "statistics"
    wants_tensors = bool({"tensor", "stats"} & set(options.types))
    return {
        "task": task,
        "dump_enable": wants_tensors,
        "exec_range": options.executions,
        "ids": options.ids,
        "op_name": options.names.lower(),
        "save_child": options.children,
        "device": options.device,
        # Level 2 aborts the process on the first kernel without "Kernel" in its name.
        "filter_level": 1 if options.deduplicate else 0,
    }


def unsupported_flags(options: AtbDumpOptions, probe: Probe) -> list[str]:
    """Say in words, one line per flag, what this probe cannot do of what the user asked for."""
    lines: list[str] = []
    if probe.era is not ProbeEra.JSON:
        if options.time == 3 and not probe.knows_in_before_out_after:
            lines.append("--save-time 3: this probe cannot choose by side; all is taken after")
        return lines
    if options.only_description:
        lines.append("--only-save-desc: statistics are written instead, without tensor data")
    if options.time not in (None, 3):
        lines.append("--save-time: this probe always takes inputs before and outputs after")
    if options.part != 2:
        lines.append("--save-tensor-part: this probe always takes inputs and outputs")
    if options.tiling:
        lines.append("--save-tiling: this probe writes no tiling data")
    lines += [
        f"--type {name}: this probe does not write it"
        for name in options.types
        if name in ("op", "kernel", "cpu_profiling")
    ]
    return lines


def check_for_probe(options: AtbDumpOptions, probe: Probe) -> None:
    """Refuse what would make this probe record nothing without a word.

    Raises
    ------
    OptionError
        For several devices where the probe compares one, and, with a probe configured by a file,
        for an output path of other characters than letters, digits and `_ . / -`, or one that is
        too long or too deep.
    """
    if probe.era is not ProbeEra.JSON:
        if "," in options.device:
            raise OptionError(
                f"--device-id {options.device}: this probe takes one device; "
                "give one, or none to record all"
            )
        return
    text = str(options.output)
    odd = sorted(set(_JSON_PATH.sub("", text)))
    if odd:
        raise OptionError(
            "this probe writes only below paths of letters, digits and _ . / -, not "
            f"{' '.join(map(repr, odd))}; choose another --output: {text}"
        )
    if len(text) > _JSON_PATH_LENGTH or text.count("/") > _JSON_PATH_LEVELS:
        raise OptionError(f"too long or too deep for this probe; choose another --output: {text}")


def _types_for_environment(options: AtbDumpOptions) -> list[str]:
    types = list(dict.fromkeys(options.types))
    if "stats" in types and "tensor" not in types:
        types.append("tensor")  # statistics are taken where tensors are saved
    if "onnx" in types and not {"model", "layer"} & set(types):
        types.append("model")
    return types


def _effective_time(options: AtbDumpOptions, probe: Probe) -> int:
    if options.time in (None, 3):
        return 3 if probe.knows_in_before_out_after else 1
    return options.time if options.time is not None else 1


def _executions_for_environment(executions: str, probe: Probe) -> str | None:
    if probe.era is not ProbeEra.ENVIRONMENT:
        return executions
    if executions == "all":
        return f"0,{_LAST_EXECUTION}"
    return None if executions == "none" else executions


def _flag(value: bool) -> str:  # noqa: FBT001
    return "1" if value else "0"


def _applied(
    base_env: Mapping[str, str], wanted: Mapping[str, str | None], preload: Sequence[Path]
) -> dict[str, str]:
    environment = dict(base_env)
    for name, value in wanted.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    # ld.so separates by blanks and colons; an empty element would mean nothing, but warns.
    before = [part for part in re.split(r"[:\s]+", base_env.get("LD_PRELOAD", "")) if part]
    environment["LD_PRELOAD"] = ":".join(dict.fromkeys([*map(str, preload), *before]))
    return environment
