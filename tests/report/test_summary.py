"""The summary: its schema, and that it is JSON for every reader."""

import json

from llmdbg.report.summary import summary, to_json
from tests.synthetic import Run, network


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_clean_run():
    data = strict(to_json(summary(network().report(), {"csv": "compare.csv"})))
    assert data["schema"] == "llmdbg.compare/1"
    assert data["verdict"] == "clean"
    assert data["culprit"] is None
    assert data["suspects"] == []
    assert data["report"] == {"csv": "compare.csv"}
    rows = 8 * 2 * 10 + 4
    assert data["counts"]["pairs"] == data["counts"]["measured"] == rows
    assert data["counts"]["states"]["PASS"] == rows


def test_a_culprit_has_the_agreed_fields():
    report = network(wrong=("layers.4.mlp.down_proj", 0.05)).report()
    culprit = strict(to_json(summary(report, {})))["culprit"]
    assert list(culprit) == [
        *("golden", "candidate", "name", "step", "rank", "kind", "ratio", "confidence"),
        *("evidence", "patterns"),
    ]
    assert culprit["golden"] == "model.layers.4.mlp.down_proj"
    assert culprit["step"] == 0
    assert culprit["rank"] is None
    assert isinstance(culprit["evidence"], list)


def test_infinite_and_undefined_numbers_become_null():
    run = Run()
    run.call("a", [0.0], [float("inf")])
    run.row("b", "output", "0", float("nan"), confidence=float("nan"))
    text = to_json(summary(run.report(), {}))
    culprit = strict(text)["culprit"]
    assert (culprit["golden"], culprit["ratio"]) == ("a", None)


def test_hostile_names_are_only_names():
    run = Run()
    name = "</script>\x1b[31m\"'\n"
    run.call(name, [0.0], [0.9])
    assert strict(to_json(summary(run.report(), {})))["culprit"]["golden"] == name
