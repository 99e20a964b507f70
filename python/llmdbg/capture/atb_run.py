"""Decide everything about one recording through ATB's probe, and prepare the ground for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg.capture.atb import (
    AtbDumpOptions,
    OptionError,
    check_for_probe,
    probe_config,
    probe_environment,
    unsupported_flags,
)
from llmdbg.capture.atb_probe import Probe, ProbeEra
from llmdbg.capture.primer import can_be_preloaded, write_primer
from llmdbg.capture.recorded import Recorded, dump_roots
from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Below this the probes drop every tensor without a word.
_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class AtbRun:
    """Everything an ATB recording needs, decided before anything is touched.

    Attributes
    ----------
    options
        What to record, with the directory finally chosen.
    probe
        The probe to preload.
    environment
        The child's environment.
    config
        Where the probe's JSON file goes, and `config_text` what is written there; None where the
        probe reads none or the user's own file is used.
    primer
        The library preloaded so that the file is read before the first operation, if there is one.
    notes
        What the probe cannot do of what was asked, and what else the user should know.
    """

    options: AtbDumpOptions
    probe: Probe
    environment: dict[str, str]
    config: Path | None
    config_text: str | None
    primer: Path | None
    notes: tuple[str, ...]


def plan_atb_run(
    options: AtbDumpOptions,
    probe: Probe,
    base_env: Mapping[str, str],
    *,
    now: float,
    pid: int,
    preload: Path | None = None,
    primer: Path | None = None,
    user_config: Path | None = None,
) -> AtbRun:
    """Decide directory, environment and configuration of an ATB recording.

    Parameters
    ----------
    options, probe, base_env
        What to record, with what, starting from which environment.
    now
        Seconds since the epoch; names the dump.
    pid
        This process, for helper files.
    preload
        Path to preload instead of the probe's own.
    primer
        Library that lets the probe read a configuration file in time, where there is one.
    user_config
        The user's own JSON file; it decides, and the options that it replaces are named.

    Raises
    ------
    OptionError
        When the probe would record nothing or not understand the file.
    """
    options = _own_directory(options, probe, now)
    check_for_probe(options, probe)
    notes = unsupported_flags(options, probe)
    config: Path | None = None
    text: str | None = None
    if user_config is not None:
        notes += _check_user_config(user_config, probe)
        config = user_config.absolute()
    elif probe.era is ProbeEra.JSON:
        config = options.output / f"atb_dump_config_{_timestamp(now)}.json"
        text = json.dumps(probe_config(options), indent=2) + "\n"
    environment = probe_environment(
        options,
        probe,
        base_env,
        timestamp=_free_timestamp(options.output, now),
        pid=pid,
        preload=[*([primer] if primer and config else []), preload or probe.path],
        config=config,
    )
    if config is not None and primer is None:
        notes.append(
            "the probe reads its configuration late here: the first 16384 operations of each "
            f"process go unrecorded, and nothing could be preloaded from {tempfile.gettempdir()} "
            "to change that; set TMPDIR to a folder that programs may be run from"
        )
    return AtbRun(options, probe, environment, config, text, primer, tuple(notes))


def prepare(run: AtbRun) -> None:
    """Make the output directory and write the probe's configuration.

    Raises
    ------
    OptionError
        When the disk is too full for the probe to write anything.
    OSError
        When the directory cannot be made or written to.
    """
    run.options.output.mkdir(mode=0o750, parents=True, exist_ok=True)
    free = shutil.disk_usage(run.options.output).free
    if free <= _FREE_BYTES:
        raise OptionError(
            f"{free / 2**30:.1f} GiB are free, and ATB's probe drops every tensor below 2 GiB; "
            f"choose another --output: {run.options.output}"
        )
    if run.config is not None and run.config_text is not None:
        # The probe ignores a file that others may write to.
        descriptor = os.open(run.config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(run.config_text)


def convert_topologies(run: AtbRun, seen: Recorded) -> tuple[int, list[str]]:
    """Write every topology that was recorded as ONNX beside it, where that was asked for.

    Returns
    -------
    tuple of int and list of str
        How many were written, and what could not be, with the reason.
    """
    if "onnx" not in run.options.types:
        return 0, []
    from llmdbg.topology.onnx import write_onnx

    written, problems = 0, []
    for path in sorted(seen.topologies):
        try:
            write_onnx(path)
            written += 1
        except (UserError, OSError) as error:
            problems.append(f"no ONNX of a topology: {error}")
    # Some probes list their topologies here for a converter.
    listing = run.environment.get("ATB_DUMP_SUB_PROC_INFO_SAVE_PATH")
    if listing:
        with contextlib.suppress(OSError):
            (Path(listing) / "subprocess_info.txt").unlink()
            Path(listing).rmdir()
    return written, problems


@contextlib.contextmanager
def preloadable(probe: Probe, *, tried: bool = True) -> Iterator[tuple[Path, Path | None]]:
    """Give spellings of the probe and its primer that the dynamic loader reads as one path each.

    The loader splits LD_PRELOAD at blanks and colons and expands `$`, with no way to quote; such a
    path is reached through a symbolic link. Link and primer live as long as the context.

    Parameters
    ----------
    probe
        The probe.
    tried
        Leave the primer out if a first process with it does not start.

    Yields
    ------
    tuple of Path and Path or None
        The probe, and the primer where the probe reads files and one can be made.
    """
    with tempfile.TemporaryDirectory(prefix="llmdbg-probe-") as directory:
        folder = Path(directory)
        path = probe.path
        if re.search(r"[\s:;$]", str(path)):
            path = folder / path.name
            path.symlink_to(probe.path)
        primer = folder / "primer.so"
        made = probe.era is not ProbeEra.ENVIRONMENT and write_primer(primer, path)
        works = made and (not tried or can_be_preloaded((primer, path)))
        yield path, primer if works else None


def _own_directory(options: AtbDumpOptions, probe: Probe, now: float) -> AtbDumpOptions:
    """Choose a directory of its own where the probe would write into an earlier run's dump."""
    names_its_runs = probe.era is not ProbeEra.JSON and "ATB_TIMESTAMP" in probe.variables
    if names_its_runs or not dump_roots(options.output):
        return options
    moment = now
    while (fresh := options.output / f"dump_{_timestamp(moment)}").exists():
        moment += 1
    return replace(options, output=fresh)


def _free_timestamp(output: Path, now: float) -> str:
    moment = now
    while any((output / f"{tool}_dump_{_timestamp(moment)}").exists() for tool in ("ait", "msit")):
        moment += 1
    return _timestamp(moment)


def _timestamp(moment: float) -> str:
    return time.strftime("%Y%m%d_%H%M%S", time.gmtime(moment))


def _check_user_config(path: Path, probe: Probe) -> list[str]:
    if probe.era is ProbeEra.ENVIRONMENT:
        raise OptionError(
            "this probe takes its orders from the environment and reads no file; leave --config "
            f"out and use the flags: {probe.path}"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"--config is no JSON ({error}): {path}") from error
    if not isinstance(settings, dict):
        raise OptionError(f"--config holds no JSON object: {path}")
    status = path.stat()
    if status.st_mode & 0o022:
        raise OptionError(f"the probe ignores a file that others may write; `chmod go-w` {path}")
    if os.geteuid() not in (0, status.st_uid):
        raise OptionError(f"the probe ignores a file of another owner; copy it: {path}")
    notes = [f"--config decides what is recorded; flags for that are not used: {path}"]
    known = _KEYS_OF_ERA[probe.era]
    notes += [
        f"--config: the probe does not know the key {key}" for key in settings if key not in known
    ]
    if str(settings.get("dump_enable")).lower() != "true":
        notes.append("--config: dump_enable is not true; set it while the model runs to record")
    if settings.get("filter_level") == 2 and settings.get("save_child"):
        notes.append(
            "--config: filter_level 2 makes the probe abort the model's process at the first "
            'kernel without "Kernel" in its name; 1 is safe'
        )
    return notes


_KEYS_OF_ERA = {
    ProbeEra.JSON: {
        "task",
        "dump_enable",
        "exec_range",
        "ids",
        "op_name",
        "save_child",
        "device",
        "filter_level",
    },
    ProbeEra.HYBRID: {"dump_enable", "er", "ids", "child", "device"},
}
