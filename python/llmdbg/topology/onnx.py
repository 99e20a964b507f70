"""ATB's topology files as ONNX graphs, to look at in Netron.

The operations that have no parts of their own become nodes; tensors keep their names, so the data
flow is the model's. Field numbers: `onnx.proto` of the ONNX project.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from llmdbg.errors import UserError
from llmdbg.topology import protobuf as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOMAIN = "atb"
_IR_VERSION, _OPSET = 8, 17
_FLOAT, _INT, _STRING, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 6, 7, 8
_MAX_DEPTH = 1000


def write_onnx(topology: Path) -> Path:
    """Write the layer or model of a topology file as `.onnx` beside it.

    Parameters
    ----------
    topology
        A `layer/**.json` or `model/**.json` of a dump.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    UserError
        When the file is no topology.
    OSError
        When it cannot be read, or its neighbour not written.
    """
    try:
        graph = json.loads(topology.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a JSON topology ({error}): {topology}") from error
    if not isinstance(graph, dict) or not (graph.get("modelName") or graph.get("opName")):
        raise UserError(f"no modelName or opName, so no ATB topology: {topology}")
    target = topology.with_suffix(".onnx")
    target.write_bytes(onnx_model(graph))
    return target


def onnx_model(graph: dict[str, Any]) -> bytes:
    """Encode an ATB layer or model as an ONNX model.

    Parameters
    ----------
    graph
        The parsed topology: `modelName` or `opName`, tensor name lists, `nodes`.

    Raises
    ------
    UserError
        When operations are nested deeper than ATB allows.
    """
    name = str(graph.get("modelName") or graph.get("opName"))
    kinds = ("inTensors", "weightTensors", "kCacheTensors", "vCacheTensors")
    inputs = [tensor for kind in kinds for tensor in _names(graph, kind)]
    encoded_graph = (
        pb.messages(1, (_node(node) for node in _leaves(graph)))
        + pb.text(2, name)
        + pb.messages(11, (pb.text(1, tensor) for tensor in inputs))
        + pb.messages(12, (pb.text(1, tensor) for tensor in _names(graph, "outTensors")))
    )
    opsets = [pb.text(1, "") + pb.integer(2, _OPSET), pb.text(1, DOMAIN) + pb.integer(2, 1)]
    return (
        pb.integer(1, _IR_VERSION)
        + pb.text(2, "llmdbg")
        + pb.data(7, encoded_graph)
        + pb.messages(8, opsets)
    )


def _leaves(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the operations without parts, in order; a single operation is its own graph."""
    if not graph.get("nodes") and "modelName" not in graph:
        yield graph
        return
    pending = [(node, 1) for node in reversed(_nodes(graph))]
    while pending:
        node, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise UserError(f"operations nested deeper than {_MAX_DEPTH}: {node.get('opName')}")
        parts = _nodes(node)
        if parts:
            pending += [(part, depth + 1) for part in reversed(parts)]
        else:
            yield node


def _nodes(graph: dict[str, Any]) -> list[dict[str, Any]]:
    nodes = graph.get("nodes")
    return [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []


def _names(graph: dict[str, Any], kind: str) -> list[str]:
    names = graph.get(kind)
    return [str(name) for name in names] if isinstance(names, list) else []


def _node(node: dict[str, Any]) -> bytes:
    parameters: dict[str, Any] = {}
    _flatten(node.get("param"), "", parameters)
    return (
        pb.texts(1, _names(node, "inTensors"))
        + pb.texts(2, _names(node, "outTensors"))
        + pb.text(3, str(node.get("opName", "")))
        + pb.text(4, str(node.get("opType", "")))
        + pb.messages(5, (_attribute(name, value) for name, value in parameters.items()))
        + pb.text(7, DOMAIN)
    )


def _flatten(value: Any, name: str, found: dict[str, Any]) -> None:
    """Spell nested parameters as `outer.inner`, each once."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else str(key), found)
    elif name and value is not None:
        while name in found:
            name += "_"
        found[name] = value


def _attribute(name: str, value: Any) -> bytes:
    return pb.text(1, name) + _attribute_value(value)


def _attribute_value(value: Any) -> bytes:
    if isinstance(value, list):
        if value and all(_is_int(item) for item in value):
            return b"".join(pb.integer(8, item) for item in value) + pb.integer(20, _INTS)
        if value and all(_is_int(item) or _is_float(item) for item in value):
            return b"".join(pb.float32(7, item) for item in value) + pb.integer(20, _FLOATS)
        return pb.texts(9, map(_spelled, value)) + pb.integer(20, _STRINGS)
    if _is_int(value):
        return pb.integer(3, value) + pb.integer(20, _INT)
    if _is_float(value):
        return pb.float32(2, value) + pb.integer(20, _FLOAT)
    return pb.text(4, _spelled(value)) + pb.integer(20, _STRING)


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _is_float(value: Any) -> bool:
    # What float32 cannot hold is spelled out instead.
    return isinstance(value, float) and (not math.isfinite(value) or abs(value) < 3.4e38)
