"""Numbers that configure a module, compared as what they are: some faults no tensor shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# What changes the result; names of files, devices and the like do not.
_TELLING = re.compile(
    r"(?i)(^|_)(eps|epsilon|scal(e|ing)|theta|base|alpha|beta|soft_?cap(ping)?|window|groups|heads|"
    r"head_dim|factor|negative_slope|approximate|threshold|offset|top_k|n_rep)(_|$)"
)


@dataclass(frozen=True)
class ParameterDifference:
    """One number that differs.

    Attributes
    ----------
    node : str
        The golden module.
    name : str
        The attribute.
    golden, candidate
        Its values.
    """

    node: str
    name: str
    golden: Any
    candidate: Any


def parameter_differences(
    golden: Mapping[str, Any] | None,
    candidate: Mapping[str, Any] | None,
    pairs: Mapping[str, str],
) -> list[ParameterDifference]:
    """Compare the parameters of the modules that were lined up.

    Parameters
    ----------
    golden, candidate : mapping or None
        The graphs of the two dumps.
    pairs : mapping of str to str
        Golden node to candidate node.

    Returns
    -------
    list of ParameterDifference
        Only of attributes that both sides have under one name.
    """
    if golden is None or candidate is None:
        return []
    ours = {n["name"]: n["params"] or {} for n in golden["nodes"]}
    theirs = {n["name"]: n["params"] or {} for n in candidate["nodes"]}
    found = []
    for node, params in ours.items():
        other = theirs.get(pairs.get(node, "")) if node in pairs else None
        for name, value in params.items():
            if other is None or name not in other or not _TELLING.search(name):
                continue
            if _differ(value, other[name]):
                found.append(ParameterDifference(node, name, value, other[name]))
    return found


def _differ(a: Any, b: Any) -> bool:
    numbers = (int, float)
    if isinstance(a, numbers) and isinstance(b, numbers):
        return abs(a - b) > 1e-6 * max(abs(a), abs(b))
    return type(a) is type(b) and a != b
