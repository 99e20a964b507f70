"""Find the library that ATB lets write its dumps, and learn what it understands.

The probe is `libatb_probe_abi{0,1}.so`: preloaded, it redefines the do-nothing `atb::Probe` of
libatb. It must be of libatb's C++ ABI, or nothing is interposed and nothing is written.
"""

from __future__ import annotations

import importlib.metadata
import platform
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg.capture.elf import ElfError, SharedLibrary, read_shared_library
from llmdbg.capture.primer import UPDATE_CONFIG
from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBE_PACKAGE = "mindstudio-probe"
DEFAULT_TOOLKIT = "/usr/local/Ascend/ascend-toolkit/latest"


class ProbeError(UserError):
    """The probe cannot be found or cannot work; the message says what to do."""


class ProbeEra(Enum):
    """How a probe is told what to record."""

    ENVIRONMENT = "environment variables"
    HYBRID = "environment variables and an optional JSON file"
    JSON = "a JSON file"


@dataclass(frozen=True)
class Probe:
    """A probe library and what it understands.

    Attributes
    ----------
    path
        The library to preload.
    era
        How it takes its orders.
    variables
        The `ATB_…` environment variables named in its bytes; may be incomplete.
    source
        Where it was found, in words for the user.
    """

    path: Path
    era: ProbeEra
    variables: frozenset[str]
    source: str

    @property
    def knows_in_before_out_after(self) -> bool:
        """Whether it can record inputs before and outputs after execution."""
        return self.era is ProbeEra.JSON or "ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER" in self.variables


def find_probe(environment: Mapping[str, str], named: Path | None = None) -> Probe:
    """Find the probe: `named`, then the CANN toolkit's, then the one of `mindstudio-probe`.

    Parameters
    ----------
    environment
        The environment the model will run in: `ATB_HOME_PATH` tells the C++ ABI,
        `ASCEND_TOOLKIT_HOME` where the toolkit is.
    named
        A probe library, or a directory that holds `libatb_probe_abi{0,1}.so`.

    Raises
    ------
    ProbeError
        When there is none, when it is of the other ABI or machine, or when this libatb never
        reads the configuration that this probe needs.
    """
    libatb = _libatb(environment)
    abi = cxx_abi(environment)
    if named is not None:
        probe = _named_probe(named, abi)
    else:
        if abi is None:
            raise ProbeError(
                "cannot tell which C++ ABI ATB uses: ATB_HOME_PATH is "
                f"{environment.get('ATB_HOME_PATH') or 'not set'} and holds no lib/libatb.so. "
                "Source ATB's set_env.sh first, or name the probe library with --probe"
            )
        found = _toolkit_probe(environment, abi) or _package_probe(abi)
        if found is None:
            raise ProbeError(
                f"no libatb_probe_abi{abi}.so in {_toolkit_directory(environment)} "
                f"and {PROBE_PACKAGE} is not installed. Install it with "
                "`pip install 'llmdbg-ascend[atb]'`, or name the library with --probe"
            )
        probe = found
    _check_pair(probe, abi, libatb)
    return probe


def cxx_abi(environment: Mapping[str, str]) -> int | None:
    """Tell libatb's C++ ABI, 0 or 1, or None where there is no trace of libatb.

    The symbols of `$ATB_HOME_PATH/lib/libatb.so` decide: with the new ABI the names of
    `atb::Probe`'s functions carry `cxx11`. Without the library the end of the path tells.
    """
    libatb = _libatb(environment)
    if libatb is not None:
        probe_names = [name for name in (*libatb.defined, *libatb.undefined) if "Probe" in name]
        if probe_names:
            return int(any("cxx11" in name for name in probe_names))
    home = environment.get("ATB_HOME_PATH", "").rstrip("/")
    for abi in (0, 1):
        if home.endswith(f"cxx_abi_{abi}"):
            return abi
    return None


def has_atb(environment: Mapping[str, str]) -> bool:
    """Whether the environment names an ATB installation."""
    return cxx_abi(environment) is not None


def describe_probe(path: Path, source: str) -> Probe:
    """Read what the probe at `path` understands from its symbols and bytes.

    Raises
    ------
    ProbeError
        When the file is no probe, or a probe for another machine.
    """
    try:
        library = read_shared_library(path)
    except (ElfError, OSError) as error:
        raise ProbeError(f"cannot use this as ATB's probe: {error}") from error
    if not any("3atb5Probe" in name for name in library.defined):
        raise ProbeError(f"this library defines no function of atb::Probe: {path}")
    if library.machine != platform.machine():
        raise ProbeError(
            f"this probe is for {library.machine}, this machine is {platform.machine()}: {path}"
        )
    if UPDATE_CONFIG not in library.defined:
        era = ProbeEra.ENVIRONMENT
    elif any(name.startswith("ATB_SAVE_TENSOR") for name in library.variables):
        era = ProbeEra.HYBRID
    else:
        era = ProbeEra.JSON
    return Probe(path.resolve(), era, library.variables, source)


def _libatb(environment: Mapping[str, str]) -> SharedLibrary | None:
    home = environment.get("ATB_HOME_PATH")
    if not home:
        return None
    try:
        return read_shared_library(Path(home) / "lib" / "libatb.so")
    except (ElfError, OSError):
        return None


def _named_probe(named: Path, abi: int | None) -> Probe:
    if not named.is_dir():
        return describe_probe(named, "--probe")
    if abi is None:
        raise ProbeError(
            "cannot tell which of the two probes fits: ATB_HOME_PATH names no ATB. "
            f"Give --probe the file itself: {named}"
        )
    return describe_probe(named / f"libatb_probe_abi{abi}.so", "--probe")


def _toolkit_directory(environment: Mapping[str, str]) -> Path:
    toolkit = environment.get("ASCEND_TOOLKIT_HOME") or DEFAULT_TOOLKIT
    return Path(toolkit) / "tools" / "ait_backend" / "dump"


def _toolkit_probe(environment: Mapping[str, str], abi: int) -> Probe | None:
    path = _toolkit_directory(environment) / f"libatb_probe_abi{abi}.so"
    if not path.is_file():
        return None
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ProbeError(
            "others may write the probe library, and it would run inside the model's process. "
            f"`chmod go-w` it, or name it with --probe if that is meant: {path}"
        )
    return describe_probe(path, "the CANN toolkit")


def _package_probe(abi: int) -> Probe | None:
    try:
        distribution = importlib.metadata.distribution(PROBE_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or []:
        if file.name == f"libatb_probe_abi{abi}.so":
            path = Path(str(distribution.locate_file(file)))
            return describe_probe(path, f"{PROBE_PACKAGE} {distribution.version}")
    return None


def _check_pair(probe: Probe, abi: int | None, libatb: SharedLibrary | None) -> None:
    other = None if abi is None else f"libatb_probe_abi{1 - abi}.so"
    if probe.path.name == other:
        raise ProbeError(
            f"ATB here is built with C++ ABI {abi}: this probe would be loaded and never called. "
            f"Use libatb_probe_abi{abi}.so instead of {probe.path}"
        )
    if probe.era is ProbeEra.JSON and libatb is not None and UPDATE_CONFIG not in libatb.defined:
        raise ProbeError(
            "this libatb is older than the probe: it never asks for the probe's JSON "
            "configuration, so nothing would be recorded. Use the probe of the CANN toolkit that "
            f"belongs to it, with --probe, instead of {probe.path}"
        )
