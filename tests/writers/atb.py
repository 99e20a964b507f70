"""Writes ATB dumps as the probes of each era leave them, byte for byte.

`write_bin` writes one tensor file, `AtbDump` a whole dump: `.op(...)` for tensors, `.model(...)`
and `.layer(...)` for topology. Execution numbers and first-level numbers are the caller's: to write
era C's renumbered directories, give renumbered executions.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

ACL_DTYPES = {
    np.dtype(name): number
    for name, number in {
        "float32": 0,
        "float16": 1,
        "int8": 2,
        "int32": 3,
        "uint8": 4,
        "int16": 6,
        "uint16": 7,
        "uint32": 8,
        "int64": 9,
        "uint64": 10,
        "float64": 11,
        "bool": 12,
        "complex64": 16,
        ml_dtypes.bfloat16: 27,
    }.items()
}
FORMATS = {0: "nchw", 2: "nd", 29: "fractal_nz"}
ROOTS = {
    "A0": "",
    "A": "ait_dump",
    "A'": "ait_dump_{stamp}",
    "B": "msit_dump_{stamp}",
    "C": "msit_dump_{stamp}",
    "C'": "msit_dump_{stamp}",
    "D": "msit_dump_{stamp}",
    "E": "atb_dump_data",
}
CSV_HEADER = (
    "Device and PID,Execution Count,Op Name,Op Type,Op Id,Input/Output,Index,Dtype,Format,Shape,"
    "Max,Min,Mean,Norm,Tensor Path\n"
)


def header(array, *, fmt=2, mode="tensor", alias=None, acl_dtype=None):
    """The text before the payload; `mode` is tensor, desc or stats."""
    has_data = mode == "tensor" and alias is None
    number = ACL_DTYPES[array.dtype] if acl_dtype is None else acl_dtype
    lines = [
        "$Version=1.0",
        f"$Object.Count={int(has_data)}",
        f"$Object.Length={array.nbytes if has_data else 0}",
        f"format={fmt}",
        f"dtype={number}",
        "dims=" + ",".join(map(str, array.shape)),
    ]
    if mode == "stats":
        lines += [f"{name}={text}" for name, text in zip(STATS, statistics(array), strict=True)]
    if alias is not None:
        lines.append(f"data={alias}")
    if has_data:
        lines.append(f"$Object.data=0,{array.nbytes}")
    return "".join(line + "\n" for line in [*lines, "$End=1"]).encode()


STATS = ("max", "min", "mean", "l2norm")


def statistics(array):
    """max, min, mean and norm as the probe prints them: six decimals, whatever the magnitude."""
    if array.dtype.kind == "c":
        largest, least = (
            array.flat[np.abs(array).argmax()],
            array.flat[np.abs(array).argmin()],
        )
        mean, norm = array.mean(), complex(np.sqrt((np.abs(array) ** 2).sum()))
        return [f"({v.real:.6f},{v.imag:.6f})" for v in (largest, least, mean, norm)]
    if array.dtype == bool:
        return ["N/A"] * 4
    wide = array.astype(np.float64)
    values = (wide.max(), wide.min(), wide.mean(), np.sqrt((wide**2).sum()))
    return [f"{value:.6f}" for value in values]


def write_bin(path, array, *, fmt=2, mode="tensor", alias=None, acl_dtype=None):
    """Append one record to a tensor file, as the probe does; the path."""
    array = np.ascontiguousarray(array)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(header(array, fmt=fmt, mode=mode, alias=alias, acl_dtype=acl_dtype))
        if mode == "tensor" and alias is None:
            file.write(array.tobytes())
    return path


def node(op_name, op_type, inputs, outputs, *, param=None, internals=(), nodes=()):
    """One operation of a topology file; empty lists are left out, as the probe does."""
    fields = {
        "opName": op_name,
        "opType": op_type,
        "param": param,
        "inTensors": list(inputs),
        "outTensors": list(outputs),
        "internalTensors": list(internals),
        "nodes": list(nodes),
    }
    return {key: value for key, value in fields.items() if value is not None and value != []}


def write_model_json(path, name, nodes, *, inputs=(), outputs=(), internals=(), weights=()):
    """A model's topology file, keys sorted; the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = {
        "modelName": name,
        "inTensors": list(inputs),
        "outTensors": list(outputs),
        "internalTensors": list(internals),
        "weightTensors": list(weights),
        "kCacheTensors": [],
        "vCacheTensors": [],
        "nodes": list(nodes),
    }
    path.write_text(json.dumps(model, sort_keys=True, separators=(",", ":")) + "\n")
    return path


class AtbDump:
    """One process's part of a dump below `output` (ATB_OUTPUT_DIR)."""

    def __init__(self, output, era="C'", *, device=0, pid=1234, stamp="20250101_120000"):
        self.era = era
        self.process = f"{device}_{pid}"
        self.pid = str(pid)
        self.root = Path(output) / ROOTS[era].format(stamp=stamp)
        holder = {"A0": self.root, "E": self.root / "data"}.get(era, self.root / "tensors")
        self.directory = holder / self.process
        self.info = self.root / "info" if era == "E" else self.root
        self.home = self.process if era == "E" else self.pid

    def op(
        self,
        execution,
        path,
        inputs=(),
        outputs=(),
        *,
        params=None,
        names=None,
        everything=False,
        **how,
    ):
        """Write one operation's tensors; its directory.

        `names` are the parameter names of inputs, then outputs, that writers of May 2026 on put
        into file names; `everything` writes inputs and outputs both before and after; `how` goes
        to `write_bin`.
        """
        directory = self.directory / str(execution) / path
        names = list(names or [None] * (len(inputs) + len(outputs)))
        sides = [
            ("before", "in", inputs, names[: len(inputs)]),
            ("after", "out", outputs, names[len(inputs) :]),
        ]
        if everything:
            sides += [("before", "out", outputs, names[len(inputs) :])]
            sides += [("after", "in", inputs, names[: len(inputs)])]
        for phase, side, arrays, own in sides:
            for i, (array, name) in enumerate(zip(arrays, own, strict=True)):
                index = str(i) if name is None else f"{i}_{name}"
                file = write_bin(directory / phase / f"{side}tensor{index}.bin", array, **how)
                if self.era == "E":
                    self._row(execution, path, side, index, np.asarray(array), file)
        if params is not None:
            directory.mkdir(parents=True, exist_ok=True)
            text = json.dumps(params, sort_keys=True, separators=(",", ":")) + "\n"
            (directory / "op_param.json").write_text(text)
        return directory

    def statistics_only(self, execution, path, inputs=(), outputs=()):
        """Rows of era E's statistic.csv without tensor files."""
        for side, arrays in (("in", inputs), ("out", outputs)):
            for i, array in enumerate(arrays):
                self._row(execution, path, side, str(i), np.asarray(array), None)

    def model(self, name, nodes, **tensors):
        """Write a model's topology; its path."""
        return write_model_json(
            self.info / "model" / self.home / f"{name}.json", name, nodes, **tensors
        )

    def layer(self, layer):
        """Write one first-level operation's own topology; its path."""
        path = self.info / "layer" / self.home / f"{layer['opName']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(layer, separators=(",", ":")) + "\n")
        return path

    def _row(self, execution, path, side, index, array, file):
        parts = [part.split("_", 1) for part in path.split("/")]
        stats = statistics(array) if array.size else ["N/A"] * 4
        cells = [
            self.process,
            str(execution),
            "/".join(name for _, name in parts),
            parts[-1][1],
            "_".join(number for number, _ in parts),
            side + "put",
            index,
            array.dtype.name,
            "nd",
            "x".join(map(str, array.shape)),
            *stats,
            "N/A" if file is None else str(file),
        ]
        # The writer drops a row with a cell that a spreadsheet might run: "-inf" among them.
        if any(cell in ("-inf", "-nan") for cell in cells):
            return
        csv = self.directory / str(execution) / "statistic.csv"
        csv.parent.mkdir(parents=True, exist_ok=True)
        with csv.open("a") as rows:
            rows.write(("" if rows.tell() else CSV_HEADER) + ",".join(cells) + "\n")


def tiny_model(*, layers=1, start=0, name="TinyModel"):
    """Topology nodes of an embedding, `layers` layers of two operations, and a head.

    First-level numbers begin at `start`, as they do for a process's second model.
    """
    hidden = [f"{name}_internal_{i}" for i in range(layers + 1)]
    sources = [f"{name}_weight_0", f"{name}_input_0"]
    gather = node(
        f"GatherOperation_{start}_0", "GatherOperation", sources, [hidden[0]], param={"axis": 0}
    )
    nodes = [
        node(f"WordEmbedding_{start}", "WordEmbedding", sources, [hidden[0]], nodes=[gather]),
        *(
            layer_node(
                start + 1 + i, "TinyLayer", hidden[i], f"{name}_weight_{i + 1}", hidden[i + 1]
            )
            for i in range(layers)
        ),
    ]
    head = node(f"LmHead_{start + 1 + layers}", "LmHead", [hidden[-1]], [f"{name}_output_0"])
    return [*nodes, head]


def layer_node(k, kind, source, weight, target):
    """A layer of a linear operation without bias and the addition that follows it."""
    own = f"{kind}_{k}"
    return node(
        own,
        kind,
        [source, weight],
        [target],
        internals=[f"{own}_internal_0"],
        nodes=[
            node(
                f"LinearOperation_{k}_0",
                "LinearOperation",
                [source, weight],
                [f"{own}_internal_0"],
                param={"hasBias": False},
            ),
            node(
                f"ElewiseOperation_{k}_1",
                "ElewiseOperation",
                [f"{own}_internal_0", source],
                [target],
                param={"elewiseType": 8},
            ),
        ],
    )
