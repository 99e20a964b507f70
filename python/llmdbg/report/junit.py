"""The report as JUnit XML: a CI server shows every operator as a test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmdbg.report.model import Report

# Characters that XML 1.0 (section 2.2) has no way to write, not even as an escape.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """Return JUnit XML: FAIL is a failure, UNDECIDED is skipped, everything else passes.

    Parameters
    ----------
    report : Report
        What to show.

    Returns
    -------
    str
        One ``testcase`` per row, named after the tensor, in the ``classname`` of its operator.
    """
    # Not at the top: few reports are JUnit, and this takes longer to import than to run.
    from xml.etree import ElementTree as ET

    states = [str(state) for state in report.verdict.states]
    suite = ET.Element(
        "testsuite",
        name="llmdbg compare",
        tests=str(len(states)),
        failures=str(states.count("FAIL")),
        skipped=str(states.count("UNDECIDED")),
        errors="0",
    )
    wanted = ("golden_node", "candidate_node", "step", "rank", "role", "slot")
    for row, state, reason in zip(
        report.frame.select(wanted).iter_rows(named=True),
        states,
        report.verdict.reasons,
        strict=True,
    ):
        name = " ".join(
            f"{part} {row[part]}" if part in ("step", "rank") else str(row[part])
            for part in ("step", "rank", "role", "slot")
            if row[part] not in (None, "")
        )
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_clean(row["golden_node"] or row["candidate_node"] or ""),
            name=_clean(name),
        )
        if state == "FAIL":
            ET.SubElement(case, "failure", message=_clean(reason), type=state)
        elif state == "UNDECIDED":
            ET.SubElement(case, "skipped", message=_clean(reason))
        elif state != "PASS":
            ET.SubElement(case, "system-out").text = _clean(f"{state}: {reason}")
    ET.indent(suite)
    text = ET.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _clean(text: str) -> str:
    return _UNWRITABLE.sub("�", text)
