"""Writes dumps of the torch hook of ait and msit: `torch_tensors/<device>_<pid>/<token>/…`."""

import json
from pathlib import Path

import torch


class TorchHookDump:
    """One process's part of a dump. `root` is `ait_dump` or `msit_dump_<stamp>`."""

    def __init__(self, output, root="ait_dump", *, device="cpu", pid=1234):
        self.root = Path(output) / root
        self.directory = self.root / "torch_tensors" / f"{device}_{pid}"

    def module(self, token, name, inputs=(), output=None):
        """Write a module's tensors; its directory. A tuple or list gives one file per leaf."""
        directory = self.directory / str(token) / name
        directory.mkdir(parents=True, exist_ok=True)
        _save(directory, "input", tuple(inputs))
        if output is not None:
            _save(directory, "output", output)
        return directory

    def weights(self, weights):
        """Write parameters by their name below the root module."""
        directory = self.directory / "weights"
        directory.mkdir(parents=True, exist_ok=True)
        for name, weight in weights.items():
            parameter = torch.nn.Parameter(weight, requires_grad=False)
            torch.save(parameter, directory / f"root.{name}.pth")

    def tree(self, tree):
        """Write `model_tree.json` from `{"name", "type", "children"}`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "model_tree.json").write_text(json.dumps(tree))

    def statistics(self, token, name, rows):
        """Write msit's statistics.csv of one module from rows of ten cells."""
        directory = self.directory / str(token) / name
        directory.mkdir(parents=True, exist_ok=True)
        header = "NodeName,NodeType,InputOutput,Index,DataType,Shape,Max,Min,Mean,L2Norm"
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (directory / "statistics.csv").write_text("\n".join(lines) + "\n")


def _save(directory, stem, value):
    if isinstance(value, tuple | list):
        for i, item in enumerate(value):
            _save(directory, f"{stem}_{i}", item)
    elif isinstance(value, torch.Tensor):
        torch.save(value, directory / f"{stem}.pth")
