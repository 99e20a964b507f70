"""JSON lines, workbook, Markdown and JUnit XML, each read back by another tool."""

import dataclasses
import json
import zipfile
from xml.etree import ElementTree as ET

import polars as pl
import pytest

from llmdbg.report import junit, markdown, tables
from llmdbg.verdict import Gate
from tests.report import example


@pytest.fixture
def report(tmp_path):
    return example.report(tmp_path)


def test_jsonl_is_strict_and_one_object_per_row(report, tmp_path):
    frame = report.frame.with_columns(pl.lit(float("inf")).alias("relative_l2"))
    tables.write_jsonl(frame, tmp_path / "rows.jsonl")

    def refuse(token):
        raise AssertionError(token)

    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert len(rows) == frame.height
    assert {row["relative_l2"] for row in rows} == {None}
    assert rows[17]["state"] == "FAIL"


def test_workbook_holds_the_rows_and_runs_no_formula(report, tmp_path):
    frame = report.frame.with_columns(
        pl.lit("=cmd|'/C calc'!A0").alias("golden_node"), pl.lit(float("-inf")).alias("ratio")
    )
    tables.write_xlsx(frame, tmp_path / "rows.xlsx")
    with zipfile.ZipFile(tmp_path / "rows.xlsx") as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
        strings = book.read("xl/sharedStrings.xml").decode()
    assert "<f>=cmd" not in sheet
    assert "<f>cmd" not in sheet
    assert "'=cmd" in strings
    # The header and every row of the frame.
    assert sheet.count("<row ") == frame.height + 1


def test_markdown_answers_first_and_names_stay_text(report):
    text = markdown.render(report)
    assert text.startswith("**✗ diverged**: ")
    assert "<img" not in text.replace("\\<img", "")
    assert "| FAIL | 0 |" in text
    assert "its inputs are clean (0.5×)".replace("(", "\\(").replace(")", "\\)") in text


def test_gates_stand_in_both(report):
    gates = tuple(Gate.parse(g).check(report.frame) for g in ("fail<=0", "unmatched<=99"))
    gated = dataclasses.replace(report, gates=gates)
    cases = [case for case in ET.fromstring(junit.render(gated)) if case.get("classname") == "gate"]
    assert [case.get("name") for case in cases] == ["fail<=0", "unmatched<=99"]
    assert [case.find("failure") is not None for case in cases] == [True, False]
    failure = cases[0].find("failure")
    assert failure is not None
    assert failure.get("message") == "gate fail<=0 does not hold: 1"
    assert r"- gate fail\<=0 does not hold: 1" in markdown.render(gated)


def test_junit_counts_and_escapes(report):
    broken = report.frame.with_columns(pl.col("golden_node") + "\x00")
    suite = ET.fromstring(junit.render(type(report)(**vars(report) | {"frame": broken})))
    assert suite.attrib["tests"] == "34"
    assert suite.attrib["failures"] == "1"
    assert suite.attrib["skipped"] == "4"
    failed = [case for case in suite if case.find("failure") is not None]
    assert len(failed) == 1
    assert failed[0].attrib["classname"].startswith("model.layers.2.")
    assert failed[0].attrib["name"] == "step 0 rank 0 output 0"
