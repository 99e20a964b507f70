"""Writes dumps of msprobe: `step<n>/<rank<r>|proc<pid>>/dump.json` and its companions."""

import json
from pathlib import Path

import torch


class MsprobeDump:
    """One step of one process. `task` is tensor (with files) or statistics (without)."""

    def __init__(self, output, *, step="step0", process="rank0", task="tensor", level="mix"):
        self.directory = Path(output) / step / process
        self.files = self.directory / "dump_tensor_data"
        self.task = task
        self.head = {"task": task, "level": level, "framework": "pytorch"}
        self.data = {}

    def item(self, name, tensor):
        """A tensor's entry; its file is written for task tensor under `name`."""
        wide = tensor.to(torch.float64)
        entry = {
            "type": "torch.Tensor",
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
            "Max": wide.max().item(),
            "Min": wide.min().item(),
            "Mean": wide.mean().item(),
            "Norm": wide.norm().item(),
            "requires_grad": False,
        }
        if self.task == "tensor":
            self.files.mkdir(parents=True, exist_ok=True)
            torch.save(tensor, self.files / f"{name}.pt")
            entry["data_name"] = f"{name}.pt"
        return entry

    def entry(self, name, *, args=(), kwargs=None, output=(), parameters=None):
        """Add a forward call; values other than tensors are written as msprobe writes them."""
        fields = {
            "input_args": [self._leaf(f"{name}.input.{i}", value) for i, value in enumerate(args)],
            "input_kwargs": {
                key: self._leaf(f"{name}.kwargs.{key}", value)
                for key, value in (kwargs or {}).items()
            },
            "output": [self._leaf(f"{name}.output.{i}", value) for i, value in enumerate(output)],
        }
        if parameters:
            fields["parameters"] = {
                key: self._leaf(f"{name}.parameters.{key}", value)
                for key, value in parameters.items()
            }
        # A module's entry, updated when its output arrives, moves behind its children's.
        self.data.pop(name, None)
        self.data[name] = fields

    def write(self, *, construct=None, stack=None):
        """Write the three files; their directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        dump = {
            **self.head,
            "dump_data_dir": str(self.files) if self.task == "tensor" else None,
            "data": self.data,
        }
        for name, content in (
            ("dump", dump),
            ("construct", construct or {}),
            ("stack", stack or {}),
        ):
            (self.directory / f"{name}.json").write_text(json.dumps(content, indent=1))
        return self.directory

    def _leaf(self, name, value):
        if isinstance(value, torch.Tensor):
            return self.item(name, value)
        if isinstance(value, list | tuple):
            return [self._leaf(f"{name}.{i}", item) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._leaf(f"{name}.{key}", item) for key, item in value.items()}
        return None if value is None else {"type": type(value).__name__, "value": value}
