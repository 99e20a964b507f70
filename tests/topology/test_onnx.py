"""ATB topologies as ONNX, read back by the onnx package."""

import json
import math

import onnx
import pytest

from llmdbg import LlmdbgError
from llmdbg.topology.onnx import write_onnx

# The example of "ATB inference dump", section 3.5.
MODEL = {
    "modelName": "TinyModel",
    "inTensors": ["TinyModel_input_0"],
    "outTensors": ["TinyModel_output_0"],
    "weightTensors": ["TinyModel_weight_0", "TinyModel_weight_1"],
    "internalTensors": ["TinyModel_internal_0"],
    "kCacheTensors": ["TinyModel_kCache_0"],
    "vCacheTensors": ["TinyModel_vCache_0"],
    "nodes": [
        {
            "opName": "WordEmbedding_0",
            "opType": "WordEmbedding",
            "inTensors": ["TinyModel_weight_0", "TinyModel_input_0"],
            "outTensors": ["TinyModel_internal_0"],
            "nodes": [
                {
                    "opName": "GatherOperation_0_0",
                    "opType": "GatherOperation",
                    "param": {"axis": 0},
                    "inTensors": ["TinyModel_weight_0", "TinyModel_input_0"],
                    "outTensors": ["TinyModel_internal_0"],
                }
            ],
        },
        {
            "opName": "TinyLayer_1",
            "opType": "TinyLayer",
            "inTensors": ["TinyModel_internal_0", "TinyModel_weight_1"],
            "outTensors": ["TinyModel_output_0"],
            "internalTensors": ["TinyLayer_1_internal_0"],
            "nodes": [
                {
                    "opName": "LinearOperation_1_0",
                    "opType": "LinearOperation",
                    "param": {"hasBias": False},
                    "inTensors": ["TinyModel_internal_0", "TinyModel_weight_1"],
                    "outTensors": ["TinyLayer_1_internal_0"],
                },
                {
                    "opName": "ElewiseOperation_1_1",
                    "opType": "ElewiseOperation",
                    "param": {"elewiseType": 8},
                    "inTensors": ["TinyLayer_1_internal_0", "TinyModel_internal_0"],
                    "outTensors": ["TinyModel_output_0"],
                },
            ],
        },
    ],
}


def written(graph, tmp_path):
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(graph))
    target = write_onnx(file)
    assert target == tmp_path / "graph.onnx"
    return onnx.load(target)


def with_parameters(parameters, tmp_path):
    graph = {"opName": "Op_0", "opType": "Op", "param": parameters}
    (node,) = written(graph, tmp_path).graph.node
    return [(a.name, onnx.helper.get_attribute_value(a)) for a in node.attribute]


def test_model(tmp_path):
    model = written(MODEL, tmp_path)
    assert model.graph.name == "TinyModel"
    assert [(node.name, node.op_type, node.domain) for node in model.graph.node] == [
        ("GatherOperation_0_0", "GatherOperation", "atb"),
        ("LinearOperation_1_0", "LinearOperation", "atb"),
        ("ElewiseOperation_1_1", "ElewiseOperation", "atb"),
    ]
    assert list(model.graph.node[2].input) == ["TinyLayer_1_internal_0", "TinyModel_internal_0"]
    assert list(model.graph.node[2].output) == ["TinyModel_output_0"]
    assert [value.name for value in model.graph.input] == [
        "TinyModel_input_0",
        "TinyModel_weight_0",
        "TinyModel_weight_1",
        "TinyModel_kCache_0",
        "TinyModel_vCache_0",
    ]
    assert [value.name for value in model.graph.output] == ["TinyModel_output_0"]
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 17), ("atb", 1)}


def test_every_kind_of_parameter(tmp_path):
    parameters = {
        "axis": -1,
        "eps": 1e-5,
        "hasBias": True,
        "name": "aGVsbG8=",
        "中": "值",
        "perm": [0, 2, 1],
        "scale": [0.5, 2],
        "mixed": ["a", 1],
        "none": None,
        "empty": [],
        "huge": 1e300,
        "inf": math.inf,
    }
    assert with_parameters(parameters, tmp_path) == [
        ("axis", -1),
        ("eps", pytest.approx(1e-5)),
        ("hasBias", 1),
        ("name", b"aGVsbG8="),
        ("中", "值".encode()),
        ("perm", [0, 2, 1]),
        ("scale", [0.5, 2.0]),
        ("mixed", [b"a", b"1"]),
        ("empty", []),
        ("huge", b"1e+300"),
        ("inf", math.inf),
    ]


def test_nested_parameters_appear_once(tmp_path):
    parameters = {"a": {"x": 1, "b": {"x": 2}}, "a.x": 3, "x": 4}
    assert with_parameters(parameters, tmp_path) == [
        ("a.x", 1),
        ("a.b.x", 2),
        ("a.x_", 3),
        ("x", 4),
    ]


def test_deep_nesting(tmp_path):
    node = {"opName": "leaf", "opType": "T"}
    for depth in range(400):
        node = {"opName": f"op{depth}", "opType": "T", "nodes": [node]}
    assert len(written(node, tmp_path).graph.node) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"nodes": []}', "[" * 100_000])
def test_what_is_no_topology(content, tmp_path):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(LlmdbgError, match=r"topology.*x\.json"):
        write_onnx(file)
    assert not file.with_suffix(".onnx").exists()
