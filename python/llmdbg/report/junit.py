"""The report as JUnit XML: a CI server shows every operator as a test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmdbg.report.model import Report
    from llmdbg.verdict import GateResult

# Characters that XML 1.0 (section 2.2) has no way to write, not even as an escape.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test of a suite.

    Attributes
    ----------
    classname, name : str
        Where it is filed, and what it is called there.
    result : str
        ``failed``, ``skipped`` or ``passed``.
    message : str
        Why; of one that passed, what is worth knowing all the same.
    kind : str
        What failed.
    """

    classname: str
    name: str
    result: Literal["failed", "skipped", "passed"]
    message: str = ""
    kind: str = ""


def render(report: Report) -> str:
    """Return JUnit XML: FAIL is a failure, UNDECIDED is skipped, everything else passes.

    Parameters
    ----------
    report : Report
        What to show.

    Returns
    -------
    str
        One ``testcase`` per row, named after the tensor, in the ``classname`` of its operator; one
        per gate.
    """
    wanted = ("golden_node", "candidate_node", "step", "rank", "role", "slot")
    rows = report.frame.select(wanted).iter_rows(named=True)
    judged = zip(rows, report.verdict.states, report.verdict.reasons, strict=True)
    cases = [_case(row, str(state), why) for row, state, why in judged]
    return suite("llmdbg compare", [*cases, *gate_cases(report.gates)])


def _case(row: dict[str, Any], state: str, reason: str) -> Case:
    node, name = row["golden_node"] or row["candidate_node"] or "", case_name(row)
    if state == "FAIL":
        return Case(node, name, "failed", reason, state)
    if state == "UNDECIDED":
        return Case(node, name, "skipped", reason)
    return Case(node, name, "passed", "" if state == "PASS" else f"{state}: {reason}")


def gate_cases(gates: Sequence[GateResult]) -> list[Case]:
    """Return one test per gate."""
    return [
        Case("gate", gate.gate, "passed" if gate.holds else "failed", str(gate), "gate")
        for gate in gates
    ]


def case_name(row: dict[str, Any]) -> str:
    """Return what a tensor is called among those of its node."""
    return " ".join(
        f"{part} {row[part]}" if part in ("step", "rank") else str(row[part])
        for part in ("step", "rank", "role", "slot")
        if row[part] not in (None, "")
    )


def suite(name: str, cases: Sequence[Case]) -> str:
    """Return JUnit XML of one suite."""
    results = [case.result for case in cases]
    root = ET.Element(
        "testsuite",
        name=name,
        tests=str(len(cases)),
        failures=str(results.count("failed")),
        skipped=str(results.count("skipped")),
        errors="0",
    )
    for case in cases:
        element = ET.SubElement(
            root, "testcase", classname=_clean(case.classname), name=_clean(case.name)
        )
        message = _clean(case.message)
        if case.result == "failed":
            ET.SubElement(element, "failure", message=message, type=_clean(case.kind))
        elif case.result == "skipped":
            ET.SubElement(element, "skipped", message=message)
        elif message:
            ET.SubElement(element, "system-out").text = message
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _clean(text: str) -> str:
    return _UNWRITABLE.sub("�", text)
