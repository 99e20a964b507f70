"""Writes what a scan reads: safetensors of any dtype, and recorded runs in llmdbg's own layout."""

import json

import numpy as np

NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8",
    "int16": "I16", "int32": "I32", "int64": "I64", "bool": "BOOL",
}  # fmt: skip


def write_safetensors(path, tensors):
    """Write named arrays; the path."""
    entries, payload = {}, b""
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        entries[name] = {
            "dtype": NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(payload), len(payload) + len(data)],
        }
        payload += data
    head = json.dumps(entries).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + payload)
    return path


class Run:
    """A recorded run, written call by call in the order they end."""

    def __init__(self):
        self.tensors, self.records, self.weights = {}, [], []
        self.order = 0

    def call(self, node, inputs, outputs, *, op_type=None, step=0, call=0, params=()):
        """Add one call; arrays by slot, or a list for slots 0, 1, …"""
        for role, arrays in (("input", inputs), ("output", outputs)):
            slots = arrays.items() if isinstance(arrays, dict) else enumerate(arrays)
            for slot, array in slots:
                self._add(self.records, node, role, str(slot), array, op_type, step, call)
        for name, array in dict(params).items():
            self._add(self.weights, node, "param", name, array, op_type, None, 0)
        self.order += 1
        return self

    def _add(self, records, node, role, slot, array, op_type, step, call):
        key = f"t{len(self.tensors)}"
        self.tensors[key] = np.asarray(array)
        record = {
            "step": step, "node": node, "call": call, "role": role, "slot": slot,
            "order": self.order, "dtype": self.tensors[key].dtype.name,
            "shape": list(self.tensors[key].shape), "file": "data/a.safetensors", "key": key,
        }  # fmt: skip
        if op_type:
            record["op_type"] = op_type
        records.append({k: v for k, v in record.items() if v is not None})

    def write(self, directory, *, rank=0, world_size=1):
        """Write the run; its directory."""
        (directory / "data").mkdir(parents=True)
        write_safetensors(directory / "data" / "a.safetensors", self.tensors)
        types = {r["node"]: r["op_type"] for r in self.records if "op_type" in r}
        manifest = {
            "format": "llmdbg.dump/1",
            "about": {"model": "Tiny"},
            "rank": rank,
            "world_size": world_size,
            "modules": [{"name": node, "type": kind} for node, kind in types.items()],
            "weights": self.weights,
            "records": [{k: v for k, v in r.items() if k != "op_type"} for r in self.records],
        }
        (directory / "manifest.json").write_text(json.dumps(manifest))
        return directory
