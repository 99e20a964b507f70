"""The stand-in for ATB, compiled once per session and C++ ABI."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import run_llmdbg

SOURCES = Path(__file__).parent.parent / "standins" / "atb"


@dataclass(frozen=True)
class Standin:
    """A compiled stand-in: what a sourced `set_env.sh` would name."""

    home: Path
    toolkit: Path

    def environment(self, **more: str) -> dict[str, str]:
        """The test's environment with this ATB in it, and nothing of a real one."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ATB_", "ASCEND_", "LLMDBG_", "LD_PRELOAD"))
        }
        return {
            **clean,
            "ATB_HOME_PATH": str(self.home),
            "ASCEND_TOOLKIT_HOME": str(self.toolkit),
            **more,
        }


def compile_library(target: Path, *sources: str, flags: tuple[str, ...] = ()) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    paths = [str(SOURCES / source) for source in sources]
    subprocess.run([*command, *flags, *paths, "-o", str(target)], check=True)
    return target


def compile_program(target: Path, atb: Standin, source: str) -> Path:
    """A program linked against a stand-in."""
    library = atb.home / "lib"
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", SOURCES / source]
    link = [f"-L{library}", "-latb", f"-Wl,-rpath,{library}"]
    subprocess.run([*command, *link, "-o", target], check=True)
    return target


@pytest.fixture(scope="session")
def toolkit(tmp_path_factory):
    """A CANN toolkit of which the probe uses one call; it holds no probe."""
    root = tmp_path_factory.mktemp("toolkit")
    compile_library(root / "lib64" / "libascendcl.so", "ascendcl.cpp")
    return root


def _standin(root: Path, toolkit: Path, abi: int, *flags: str) -> Standin:
    home = root / f"cxx_abi_{abi}"
    compile_library(
        home / "lib" / "libatb.so",
        "stubs.cpp",
        "runtime.cpp",
        flags=(f"-D_GLIBCXX_USE_CXX11_ABI={abi}", *flags),
    )
    return Standin(home, toolkit)


@pytest.fixture(scope="session")
def atb_abi0(tmp_path_factory, toolkit):
    return _standin(tmp_path_factory.mktemp("atb"), toolkit, 0)


@pytest.fixture(scope="session")
def atb_abi1(tmp_path_factory, toolkit):
    return _standin(tmp_path_factory.mktemp("atb"), toolkit, 1)


@pytest.fixture(scope="session")
def old_atb(tmp_path_factory, toolkit):
    """An ATB from before October 2025, which knows 28 of the probe's 30 functions."""
    return _standin(tmp_path_factory.mktemp("old"), toolkit, 1, "-DSTANDIN_OLD_ATB")


@pytest.fixture
def run_model() -> list[str]:
    return [sys.executable, str(SOURCES / "run_model.py")]


@pytest.fixture
def llmdbg(tmp_path):
    """Run the command line and give back the finished process."""

    def run(*args: str, env: dict[str, str], cwd: Path = tmp_path):
        return run_llmdbg(*args, env=env, cwd=cwd, timeout=120)

    return run


@pytest.fixture(scope="session")
def legacy_probe(tmp_path_factory):
    """A probe told everything by the environment, in a folder as a CANN toolkit holds it."""
    root = tmp_path_factory.mktemp("legacy_probe")
    return compile_library(root / "libatb_probe_abi1.so", "legacy_probe.cpp")
