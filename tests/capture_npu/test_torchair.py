"""torchair's settings, old and new."""

import json
import sys
import types

import pytest

from llmdbg import LlmdbgError
from llmdbg.capture.torchair import get_fx_dump_config, get_ge_dump_config, write_fusion_switch
from tests.standins.torchair import compiler_config


@pytest.mark.parametrize("path", ["path", "_path"])
def test_ge_dump(path, tmp_path):
    config = compiler_config(path=path)
    found = get_ge_dump_config(tmp_path, compiler_config=config)
    assert found is config
    directory = str(tmp_path / "llmdbg_ge_dump")
    assert config.debug.graph_dump.type == "txt"
    assert getattr(config.debug.graph_dump, path) == directory
    assert config.dump_config.enable_dump is True
    assert config.dump_config.dump_path == directory
    assert config.dump_config.dump_mode == "all"
    assert config.dump_config.dump_step == ""
    assert config.dump_config.dump_layer == ""
    assert config.fusion_config.fusion_switch_file is None
    assert config.debug.data_dump.type is None


def test_ge_dump_with_every_argument(tmp_path):
    switch = write_fusion_switch(tmp_path / "fusion.json")
    config = get_ge_dump_config(
        str(tmp_path / "new"), "input", switch, [0, 2, 5], ["Add_8", "model/layers.0/MatMul"],
        compiler_config(),
    )  # fmt: skip
    assert config.dump_config.dump_mode == "input"
    assert config.dump_config.dump_step == "0|2|5"
    assert config.dump_config.dump_layer == "Add_8 model/layers.0/MatMul"
    assert config.fusion_config.fusion_switch_file == str(switch)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"dump_mode": "both"}, "all, input or output"),
        ({"dump_token": [-1]}, "counted from 0"),
        ({"dump_token": []}, "counted from 0"),
        ({"dump_layer": "Add"}, "found the text 'Add'"),
        ({"dump_layer": ["a b"]}, r"found \['a b'\]"),
        ({"fusion_switch_file": "none.json"}, "no such fusion switch file"),
    ],
)
def test_ge_dump_refuses(arguments, reason, tmp_path):
    with pytest.raises(LlmdbgError, match=reason):
        get_ge_dump_config(tmp_path, compiler_config=compiler_config(), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_torchair_does_not_have(tmp_path):
    with pytest.raises(LlmdbgError, match=r"no option dump_config\.dump_step; update torch_npu"):
        get_ge_dump_config(tmp_path, dump_token=[0], compiler_config=compiler_config(steps=False))


def test_a_directory_in_use_is_said(tmp_path):
    (tmp_path / "llmdbg_ge_dump").mkdir()
    (tmp_path / "llmdbg_ge_dump" / "20260101000000").mkdir()
    with pytest.warns(UserWarning, match="something is there already"):
        get_ge_dump_config(tmp_path, compiler_config=compiler_config())


@pytest.mark.parametrize("path", ["path", "_path"])
def test_fx_dump(path, tmp_path):
    config = get_fx_dump_config(tmp_path, compiler_config=compiler_config(path=path))
    assert config.debug.data_dump.type == "npy"
    assert getattr(config.debug.data_dump, path) == str(tmp_path / "llmdbg_fx_dump")
    assert config.debug.data_dump.filter is None
    assert config.dump_config.enable_dump is False


def test_fx_dump_without_a_path(tmp_path):
    with pytest.warns(UserWarning, match="writes to data_dump in the current directory"):
        config = get_fx_dump_config(tmp_path, compiler_config=compiler_config(fx_path=False))
    assert config.debug.data_dump.type == "npy"
    assert list(tmp_path.iterdir()) == []


def test_fx_dump_of_some_nodes(tmp_path):
    config = get_fx_dump_config(tmp_path, ["MM", "add_1"], compiler_config())
    nodes = [types.SimpleNamespace(name=name) for name in ("mm_3", "add", "add_1", "softmax")]
    kept = [node for node in nodes if config.debug.data_dump.filter(node) is node]
    assert [node.name for node in kept] == ["mm_3", "add_1"]
    assert config.debug.data_dump.filter(nodes[3]) is None


def test_new_configuration_comes_from_torchair(tmp_path, monkeypatch):
    module = types.ModuleType("torchair")
    module.CompilerConfig = compiler_config
    monkeypatch.setitem(sys.modules, "torchair", module)
    assert get_ge_dump_config(tmp_path).dump_config.enable_dump is True


def test_without_torchair(tmp_path):
    with pytest.raises(LlmdbgError, match=r"torchair is needed .* comes with torch_npu"):
        get_fx_dump_config(tmp_path)


def test_fusion_switch_file(tmp_path):
    assert json.loads(write_fusion_switch(tmp_path / "off.json").read_text()) == {
        "Switch": {"GraphFusion": {"ALL": "off"}, "UBFusion": {"ALL": "off"}}
    }
    some = write_fusion_switch(
        tmp_path / "some.json",
        graph_fusion={"ALL": False, "SoftmaxFusionPass": True},
        ub_fusion={"ALL": True},
    )
    assert json.loads(some.read_text()) == {
        "Switch": {
            "GraphFusion": {"ALL": "off", "SoftmaxFusionPass": "on"},
            "UBFusion": {"ALL": "on"},
        }
    }
