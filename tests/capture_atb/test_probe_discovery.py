"""Reading libraries, and telling one probe from another."""

import platform
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest

from llmdbg.capture.atb_probe import (
    ProbeEra,
    ProbeError,
    cxx_abi,
    describe_probe,
    find_probe,
    has_atb,
)
from llmdbg.capture.elf import ElfError, read_shared_library


def packaged(abi):
    (file,) = (
        file
        for file in distribution("mindstudio-probe").files
        if file.name == f"libatb_probe_abi{abi}.so"
    )
    return Path(file.locate())


def nm(path, flag):
    """The same names by binutils, without symbol versions."""
    lines = subprocess.run(
        ["nm", "-D", flag, "--without-symbol-versions", str(path)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return {line.split()[-1] for line in lines}


@pytest.mark.parametrize("abi", [0, 1])
def test_symbols_as_binutils_sees_them(abi):
    library = read_shared_library(packaged(abi))
    # nm leaves out the sections' and files' own symbols, which have no name here either.
    assert set(library.defined) == nm(packaged(abi), "--defined-only")
    assert library.undefined == nm(packaged(abi), "--undefined-only")
    assert library.machine == platform.machine()
    assert library.variables == {"ATB_AIT_LOG_LEVEL", "ATB_DUMP_CONFIG", "ATB_OUTPUT_DIR"}


def test_thirty_functions_of_the_probe():
    names = {name for name in read_shared_library(packaged(1)).defined if "5Probe" in name}
    names |= {name for name in read_shared_library(packaged(1)).defined if "SpeedProbe" in name}
    assert (
        len({name for name in names if name.startswith(("_ZN3atb5Probe", "_ZN9atb_speed"))}) == 30
    )


@pytest.mark.parametrize("cut", [0, 4, 63, 64, 1000])
def test_broken_libraries_are_refused(cut, atb_abi1, tmp_path):
    broken = tmp_path / "libbroken.so"
    broken.write_bytes((atb_abi1.home / "lib" / "libatb.so").read_bytes()[:cut])
    with pytest.raises(ElfError, match=r"libbroken\.so"):
        read_shared_library(broken)
    with pytest.raises(ProbeError, match="cannot use this as ATB's probe"):
        describe_probe(broken, "test")


def test_tables_that_point_outside_are_refused(atb_abi1, tmp_path):
    raw = bytearray((atb_abi1.home / "lib" / "libatb.so").read_bytes())
    raw[0x28:0x30] = (len(raw) - 8).to_bytes(8, "little")  # e_shoff
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(raw)
    with pytest.raises(ElfError):
        read_shared_library(broken)


@pytest.mark.parametrize("abi", [0, 1])
def test_abi_from_the_symbols_not_the_folder(abi, request, tmp_path):
    atb = request.getfixturevalue(f"atb_abi{abi}")
    misleading = tmp_path / f"cxx_abi_{1 - abi}"
    misleading.symlink_to(atb.home)
    assert cxx_abi({"ATB_HOME_PATH": str(misleading)}) == abi


@pytest.mark.parametrize(
    ("home", "abi"), [("/opt/atb/cxx_abi_0", 0), ("/opt/atb/cxx_abi_1/", 1), ("/opt/atb", None)]
)
def test_abi_from_the_folder_without_a_library(home, abi):
    assert cxx_abi({"ATB_HOME_PATH": home}) == abi
    assert has_atb({"ATB_HOME_PATH": home}) == (abi is not None)


def test_no_atb_at_all():
    assert cxx_abi({}) is None
    with pytest.raises(ProbeError, match=r"ATB_HOME_PATH is not set .*set_env\.sh"):
        find_probe({})


@pytest.mark.parametrize("abi", [0, 1])
def test_package_is_found_by_abi(abi, request):
    probe = find_probe(request.getfixturevalue(f"atb_abi{abi}").environment())
    assert probe.path == packaged(abi).resolve()
    assert probe.era is ProbeEra.JSON
    assert probe.knows_in_before_out_after


def test_legacy_probe_is_told_by_its_symbols(legacy_probe):
    probe = describe_probe(legacy_probe, "test")
    assert probe.era is ProbeEra.ENVIRONMENT
    assert probe.knows_in_before_out_after


def test_any_other_library_is_refused(atb_abi1):
    with pytest.raises(ProbeError, match="defines no function of atb::Probe"):
        describe_probe(atb_abi1.toolkit / "lib64" / "libascendcl.so", "test")


def test_probe_for_another_machine(atb_abi1, tmp_path):
    raw = bytearray(packaged(1).read_bytes())
    raw[18:20] = (243).to_bytes(2, "little")  # e_machine: RISC-V
    other = tmp_path / "libatb_probe_abi1.so"
    other.write_bytes(raw)
    with pytest.raises(ProbeError, match=r"for machine 243, this machine is"):
        find_probe(atb_abi1.environment(), other)
