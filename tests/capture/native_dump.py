"""Reads a native dump back with the safetensors package: the tests' own view of a dump."""

import json
import math
from pathlib import Path

import torch
from safetensors import safe_open


class NativeDump:
    def __init__(self, folder):
        self.folder = Path(folder)
        manifest = self.folder / "manifest.json"
        if manifest.exists():
            self.manifest = json.loads(manifest.read_text(), parse_constant=_refuse)
            self.records = self.manifest["records"]
            self.weights = self.manifest["weights"]
        else:
            lines = (self.folder / "journal.jsonl").read_text().splitlines()
            self.manifest, *records = [json.loads(line) for line in lines]
            self.records = [r for r in records if r["role"] != "param"]
            self.weights = [r for r in records if r["role"] == "param"]

    def find(self, node, role, slot, step=0, call=0):
        wanted = {"node": node, "role": role, "slot": slot, "step": step, "call": call}
        found = [r for r in self.records if all(r[k] == v for k, v in wanted.items())]
        assert len(found) == 1, (wanted, found)
        return found[0]

    def tensor(self, node, role, slot, step=0, call=0):
        return self.bytes_of(self.find(node, role, slot, step, call))

    def bytes_of(self, record):
        with safe_open(self.folder / record["file"], framework="pt") as file:
            tensor = file.get_tensor(record["key"])
        dtype = getattr(torch, record["dtype"])
        if tensor.dtype != dtype:
            tensor = torch.view_as_complex(tensor)
        assert tensor.dtype == dtype
        assert tensor.numel() == math.prod(record["shape"])
        return tensor.reshape(record["shape"])

    def slots(self, node, role, step=0, call=0):
        return [
            r["slot"]
            for r in self.records
            if (r["node"], r["role"], r["step"], r["call"]) == (node, role, step, call)
        ]


def _refuse(name):
    raise AssertionError(f"{name} is no JSON")
