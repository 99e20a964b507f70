"""Look at what a probe left behind: counts, and the reason when there is nothing."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmdbg.capture.atb import AtbDumpOptions

# Where the probes of the different eras write, below the output directory.
_ROOT = re.compile(r"atb_dump_data|(ait|msit)_dump(_.+)?")
_DEVICE_PID = re.compile(r"(-?\d+)_(\d+)")
_TENSOR = re.compile(r"(in|out)tensor\d+(_.+)?\.bin", re.IGNORECASE)
_DATA_DIRECTORIES = ("tensors", "data")


@dataclass
class Recorded:
    """What lies in a directory that a probe wrote into.

    Attributes
    ----------
    roots
        The dump directories found, oldest first.
    kinds
        Number of files of each kind, by a word for the user.
    bytes
        Total size of all of them.
    devices, operations, identifiers, executions
        What the files show the run had: device numbers, operation names, ids such as `3_1`, and
        execution counts.
    topologies
        The files that describe layers and models.
    """

    roots: list[Path] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    devices: set[str] = field(default_factory=set)
    operations: set[str] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    executions: set[int] = field(default_factory=set)
    topologies: list[Path] = field(default_factory=list)

    @property
    def tensors(self) -> int:
        """Number of tensor files."""
        return self.kinds["tensors"]

    @property
    def has_data(self) -> bool:
        """Whether there is anything to compare: tensors or statistics."""
        return bool(self.kinds["tensors"] or self.kinds["statistics files"])

    def __str__(self) -> str:
        """Count the files in words, the most frequent kind first."""
        return ", ".join(
            f"{number} {kind if number != 1 else kind.removesuffix('s')}"
            for kind, number in sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        )


def dump_roots(output: Path) -> list[Path]:
    """List the dump directories of any probe directly below `output`, oldest first."""
    if not output.is_dir():
        return []
    found = [path for path in output.iterdir() if _ROOT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def recorded_since(output: Path, earlier: list[Path]) -> Recorded:
    """Count what the dump directories below `output` hold, leaving out the `earlier` ones."""
    seen = Recorded(roots=[root for root in dump_roots(output) if root not in earlier])
    for root in seen.roots:
        for path in _files(root):
            _count(seen, path, path.relative_to(root).parts)
    return seen


def why_empty(
    options: AtbDumpOptions, seen: Recorded, environment: Mapping[str, str], *, primed: bool = True
) -> str:
    """Say in one line why a run left no tensor, as far as the files tell.

    Parameters
    ----------
    options
        What was asked for.
    seen
        What was found.
    environment
        The environment the command ran in.
    primed
        Whether the probe had read its configuration before the first operation.
    """
    if not seen.kinds:
        home = environment.get("ATB_HOME_PATH")
        if not home:
            return (
                "the probe was never called: ATB_HOME_PATH is not set, so the command probably ran "
                "without ATB; source ATB's set_env.sh, or record torch with --type torch"
            )
        return (
            "the probe was never called: no ATB operation ran in the command, or it ran in a "
            "process that did not inherit LD_PRELOAD (sudo, ssh and containers drop it); "
            "a model on plain torch is recorded with --type torch"
        )
    if options.executions == "none":
        return "--execute-range none asks for no execution"
    if options.device and seen.devices and not set(options.device.split(",")) & seen.devices:
        return (
            f"--device-id {options.device} matches none of the devices that ran: "
            f"{_some(seen.devices)}"
        )
    if options.ids or options.names:
        reason = _filters_match_nothing(options, seen)
        if reason:
            return reason
    if not primed:
        return (
            "the probe reads its configuration only after 16384 operations here; "
            "use --execute-range all and a longer run"
        )
    return (
        f"--execute-range {options.executions} selects no execution that took place; "
        "--execute-range all records every one"
    )


def _filters_match_nothing(options: AtbDumpOptions, seen: Recorded) -> str:
    by_id = any(
        identifier == wanted or (options.children and identifier.startswith(wanted + "_"))
        for wanted in options.ids.split(",")
        if wanted
        for identifier in seen.identifiers
    )
    by_name = any(
        operation.lower().startswith(wanted)
        for wanted in options.names.lower().split(",")
        if wanted
        for operation in seen.operations
    )
    if by_id or by_name or not seen.operations:
        return ""
    parts = []
    if options.ids:
        parts.append(f"--save-operation-ids {options.ids} (there are {_some(seen.identifiers)})")
    if options.names:
        parts.append(f"--operation-name {options.names} (there are {_some(seen.operations)})")
    return " and ".join(parts) + " matched no operation"


def _some(words: set[str]) -> str:
    ordered = sorted(words, key=lambda word: (len(word), word))
    return ", ".join(ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")


def _files(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root):
        for name in names:
            yield Path(directory) / name


def _count(seen: Recorded, path: Path, parts: tuple[str, ...]) -> None:
    kind = _kind(parts)
    seen.kinds[kind] += 1
    seen.bytes += path.lstat().st_size
    for part in parts[:-1]:
        if place := _DEVICE_PID.fullmatch(part):
            seen.devices.add(place[1])
            break
    if parts[0] in _DATA_DIRECTORIES and len(parts) > 3 and parts[2].isdigit():
        seen.executions.add(int(parts[2]))
    if kind == "topology files":
        seen.topologies.append(path)
        _read_topology(seen, path)


def _kind(parts: tuple[str, ...]) -> str:
    name = parts[-1]
    directories = set(parts[:-1])
    if _TENSOR.fullmatch(name):
        return "tensors"
    if name == "op_param.json":
        return "parameter files"
    if name.endswith("tilingdata.bin"):
        return "tiling files"
    if name == "statistic.csv":
        return "statistics files"
    if name.endswith(".json") and directories & {"layer", "model"}:
        return "topology files"
    for directory in ("operation_io_tensors", "kernel_io_tensors", "cpu_profiling"):
        if directory in directories:
            return f"{directory} files"
    return "other files"


def _read_topology(seen: Recorded, path: Path) -> None:
    try:
        pending = [json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return
    while pending:
        node = pending.pop()
        if not isinstance(node, dict):
            continue
        if isinstance(name := node.get("opName"), str):
            stem = re.fullmatch(r"(.*?)((?:_\d+)+)", name)
            seen.operations.add(stem[1] if stem else name)
            if stem:
                seen.identifiers.add(stem[2][1:])
        if isinstance(nodes := node.get("nodes"), list):
            pending.extend(nodes)
