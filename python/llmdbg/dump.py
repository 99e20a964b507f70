"""Opening a recorded run, whatever tool and layout it came from."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmdbg import _core

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray


def open_dump(path: str | PathLike[str]) -> Dump:
    """Open a dump: find out its layout and list its tensors, without reading them.

    Parameters
    ----------
    path : str or path
        Any level of a dump that names just one: its root or the directory above it, one process,
        step or rank, a description file such as ``manifest.json``; or a folder of tensor files;
        or one tensor file.

    Returns
    -------
    Dump

    Raises
    ------
    LlmdbgError
        If there is no dump, or several, at ``path``; the message lists what is there.
    OSError
        If the operating system refuses to read ``path``.

    Examples
    --------
    >>> dump = open_dump("ait_dump/torch_tensors")  # doctest: +SKIP
    >>> dump.records.filter(role="output").head()  # doctest: +SKIP
    """
    return Dump(_core.open_dump(path))


class Dump:
    """One recorded run.

    Attributes
    ----------
    core : llmdbg._core.Dump
        What the engine's functions take.
    """

    def __init__(self, core: _core.Dump) -> None:
        self.core = core

    def __len__(self) -> int:
        return len(self.core)

    def __repr__(self) -> str:
        return f"<{self.layout} dump of {len(self)} tensors: {self.root}>"

    @property
    def layout(self) -> str:
        """Name of the layout: ``native``, ``ait``, ``atb``, ``ge``, ``folder`` and others."""
        return self.core.layout

    @property
    def variant(self) -> str:
        """Writer era or version where it can be told, else empty."""
        return self.core.variant

    @property
    def root(self) -> str:
        """The directory (or file) that was read."""
        return self.core.root

    @property
    def steps(self) -> list[int]:
        """Steps (tokens, executions) that tensors belong to, ascending."""
        return self.core.steps

    @property
    def ranks(self) -> list[int]:
        """Ranks that tensors belong to, ascending."""
        return self.core.ranks

    @property
    def problems(self) -> list[str]:
        """What could not be read and was left out, in words."""
        return self.core.problems

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the producer said about the run."""
        return dict(json.loads(self.core.about_json))

    @cached_property
    def nodes(self) -> list[str]:
        """Names of the operators and modules that have tensors, in execution order."""
        return list(dict.fromkeys(self.core.columns()["node"]))

    @cached_property
    def graph(self) -> dict[str, Any] | None:
        """The operator graph, where the producer left one.

        ``{"nodes": [{"name", "type", "params", "parent", "order", "inputs", "outputs"}],
        "tensors": [name]}``; ``parent`` indexes ``nodes``, ``inputs`` and ``outputs`` index
        ``tensors``.
        """
        text = self.core.graph_json()
        return None if text is None else dict(json.loads(text))

    @cached_property
    def values(self) -> list[dict[str, Any]]:
        """Arguments and results that are no tensors, where the producer kept them."""
        return list(json.loads(self.core.values_json()))

    @cached_property
    def records(self) -> pl.DataFrame:
        """One row per tensor, with dtype and shape; tensor ``i`` is row ``i``.

        Columns: step, rank, node, op_type, call, role (input, output, param, tensor), phase
        (before, after), slot, order, path, key, dtype, shape; the producer's statistics max, min,
        mean, norm (L2) and counts nan, pos_inf, neg_inf, zero; hash (``algorithm:digits``),
        sketch_path, sketch_key. Unknown is null.
        """
        import polars as pl

        self.core.describe()
        types: dict[str, pl.DataType | type[pl.DataType]] = {
            "step": pl.UInt64,
            "rank": pl.UInt32,
            "call": pl.UInt32,
            "order": pl.UInt64,
            "shape": pl.List(pl.UInt64),
            **dict.fromkeys(("max", "min", "mean", "norm"), pl.Float64),
            **dict.fromkeys(("nan", "pos_inf", "neg_inf", "zero"), pl.UInt64),
        }
        columns = self.core.columns()
        schema = {name: types.get(name, pl.String) for name in columns}
        return pl.DataFrame(columns, schema=schema)

    def tensor(self, index: int) -> NDArray[np.generic]:
        """Read the tensor of one record.

        Parameters
        ----------
        index : int
            Row of `records`.

        Returns
        -------
        ndarray
            As `llmdbg.read_tensor` gives it.

        Raises
        ------
        LlmdbgError
            If its file is malformed, or the dump holds only a description of it.
        OSError
            If the operating system refuses to read its file.
        IndexError
            If there is no such record.
        """
        from llmdbg.reading import to_numpy

        return to_numpy(self.core.tensor(index))

    def candidate(self) -> Dump | None:
        """Open the other side of a manual mapping, which holds both; None of other layouts."""
        core = self.core.candidate()
        return None if core is None else Dump(core)
