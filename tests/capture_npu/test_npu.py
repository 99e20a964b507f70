"""Kernel dumps and overflow flags against a stand-in of torch_npu."""

import json
import sys
import types

import pytest

from llmdbg import LlmdbgError
from llmdbg.capture.npu import acl_dump_config, kernel_dump, overflow_happened
from tests.standins.torch_npu import Npu, check


@pytest.fixture
def npu(monkeypatch):
    def install(**options):
        device = Npu(**options)
        module = types.ModuleType("torch_npu")
        module.npu = device
        monkeypatch.setitem(sys.modules, "torch_npu", module)
        return device

    return install


def test_kernel_dump(npu, tmp_path):
    device = npu()
    with kernel_dump(tmp_path / "kernels") as config:
        device.calls.append("model")
    assert device.calls == [
        "synchronize",
        "init_dump",
        "set_dump",
        "synchronize",
        "model",
        "synchronize",
        "finalize_dump",
    ]
    assert device.dump == {
        "dump_path": str(tmp_path / "kernels"),
        "dump_mode": "all",
        "dump_data": "tensor",
        "dump_level": "all",
        "dump_list": [],
        "dump_op_switch": "on",
    }
    assert json.loads(config.read_text()) == {"dump": device.dump}


def test_kernel_dump_ends_when_the_model_raises(npu, tmp_path):
    device = npu()
    with pytest.raises(RuntimeError, match="model"), kernel_dump(tmp_path):
        raise RuntimeError("model")
    assert device.calls[-1] == "finalize_dump"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"overflow": True}, {"dump_debug": "on"}),
        ({"steps": [0, 5, (10, 20)]}, {"dump_step": "0|5|10-20"}),
        (
            {"data": "stats", "statistics": ["Max", "Nan"]},
            {"dump_data": "stats", "dump_stats": ["Max", "Nan"]},
        ),
        (
            {"layers": ["conv1conv1_relu"], "model": "resnet"},
            {"dump_list": [{"model_name": "resnet", "layer": ["conv1conv1_relu"]}]},
        ),
        ({"mode": "input", "level": "op"}, {"dump_mode": "input", "dump_level": "op"}),
    ],
)
def test_configurations_that_cann_takes(options, expected, tmp_path):
    dump = acl_dump_config(tmp_path, **options)["dump"]
    assert dump.items() >= expected.items()
    check(dump)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "both"}, "mode is one of"),
        ({"statistics": ["Max"]}, 'with data="stats" only'),
        ({"data": "stats", "statistics": ["Median"]}, "found 'Median'"),
        ({"layers": ["a"]}, "belong together"),
        ({"steps": [-1]}, "counted from 0"),
        ({"steps": range(101)}, "up to 100"),
    ],
)
def test_configurations_that_cann_would_refuse(options, reason, tmp_path):
    with pytest.raises(LlmdbgError, match=reason):
        acl_dump_config(tmp_path, **options)


def test_path_too_long():
    with pytest.raises(LlmdbgError, match="up to 512 characters"):
        acl_dump_config("/" + "d" * 512)


def test_overflow_flag(npu):
    npu(overflowed=True)
    assert overflow_happened(clear=False)
    assert overflow_happened()
    assert not overflow_happened()


def test_overflow_flag_in_inf_nan_mode(npu):
    npu(inf_nan=True)
    with pytest.raises(LlmdbgError, match="INF_NAN mode and sets no overflow flag"):
        overflow_happened()


def test_without_cann(tmp_path):
    with (
        pytest.raises(LlmdbgError, match=r"torch_npu cannot be imported .* CANN"),
        kernel_dump(tmp_path / "new"),
    ):
        pass
    assert not (tmp_path / "new").exists()
