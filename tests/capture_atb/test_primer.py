"""The library that makes a probe read its configuration in time."""

import struct
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest

from llmdbg.capture.primer import _CODE, can_be_preloaded, write_primer
from tests.capture_atb.conftest import compile_library


def probe_of_package(abi):
    (file,) = (
        f for f in distribution("mindstudio-probe").files if f.name == f"libatb_probe_abi{abi}.so"
    )
    return Path(file.locate())


# What GNU as makes of the instructions that the docstrings give, with the vector 0x10118, the
# string 0x10130 and the two addresses 0x10100 and 0x10108 bytes after the first of them.
AARCH64 = [
    0xA9BF7BFD, 0x100808A0, 0x10080941, 0x580807A2, 0xD63F0040, 0xA8C17BFD, 0x58080782, 0xD61F0040,
]  # fmt: skip
X86_64 = "4883ec08 488d3d0d010100 488d351e010100 ff15e8000100 4883c408 ff25e6000100"


def test_code_is_what_an_assembler_makes():
    at = 0x1C8
    arm = _CODE["aarch64"](at, at + 0x10118, at + 0x10130, at + 0x10100, at + 0x10108)
    assert list(struct.unpack("<8I", arm)) == AARCH64
    intel = _CODE["x86_64"](at, at + 0x10118, at + 0x10130, at + 0x10100, at + 0x10108)
    assert intel == bytes.fromhex(X86_64)


@pytest.mark.parametrize("abi", [0, 1])
def test_other_tools_read_it(abi, tmp_path):
    primer = tmp_path / "primer.so"
    assert write_primer(primer, probe_of_package(abi))
    text = subprocess.run(
        ["readelf", "--wide", "--dynamic", "--segments", "--use-dynamic", "--syms", primer],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert text.stderr == ""
    assert f"Shared library: [{probe_of_package(abi)}]" in text.stdout
    assert "_ZN3atb5Probe12UpdateConfigEv" in text.stdout
    assert "RWE" not in text.stdout
    assert can_be_preloaded([primer, probe_of_package(abi)])


def test_unknown_machine_or_probe_makes_nothing(tmp_path, toolkit):
    primer = tmp_path / "primer.so"
    assert not write_primer(primer, probe_of_package(1), "riscv64")
    assert not write_primer(primer, toolkit / "lib64" / "libascendcl.so")
    assert not primer.exists()


def test_what_cannot_be_preloaded_is_found_out(tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF")
    assert not can_be_preloaded([broken])
    # Its initialiser ends the process.
    source = tmp_path / "ends.cpp"
    source.write_text("#include <cstdlib>\nnamespace { const int end = (std::abort(), 0); }\n")
    ends = tmp_path / "ends.so"
    compile_library(ends, str(source), flags=("-Wno-unused-variable",))
    assert not can_be_preloaded([ends])
