"""The report in a terminal: answer first, plain in a pipe, no control characters from a dump."""

import io

from llmdbg.report import terminal
from tests.synthetic import Run, network


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rendered(report, stream=None, **kwargs):
    stream = stream or io.StringIO()
    terminal.render(report, stream, **kwargs)
    return stream.getvalue()


def test_the_sentence_comes_first_then_the_worst_rows_then_the_next_command():
    report = network(wrong=("layers.4.mlp.down_proj", 0.05)).report()
    lines = rendered(report, files={"directory": "/tmp/report"}).splitlines()
    assert lines[0].startswith("diverged: model.layers.4.mlp.down_proj (step 0) FAIL: ")
    header = next(i for i, line in enumerate(lines) if line.startswith("state"))
    assert lines[header + 1].startswith("FAIL")
    assert "model.layers.4.mlp.down_proj output 0" in lines[header + 1]
    table = lines[header + 1 : lines.index("", header)]
    assert len(table) == 10
    assert lines[-2] == "report: /tmp/report"
    assert lines[-1] == (
        "next:   llmdbg show dumps/candidate --node model.layers.4.mlp.down_proj --step 0"
    )


def test_a_pipe_gets_plain_text_and_a_terminal_the_same_words():
    report = network(wrong=("layers.4.mlp.down_proj", 0.05)).report()
    assert "\x1b" not in rendered(report)
    coloured = rendered(report, Terminal())
    assert "FAIL" in coloured
    assert "diverged" in coloured


def test_names_cannot_drive_the_terminal():
    run = Run()
    run.call("evil\x1b]0;title\x07", [0.0], [0.9])
    text = rendered(run.report())
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b]0;title\\x07" in text


def test_brackets_in_names_are_not_markup():
    run = Run()
    run.call("layers[0][red]x[/red]", [0.0], [0.9])
    assert "layers[0][red]x[/red]" in rendered(run.report())


def test_long_names_are_not_cut_in_a_pipe():
    run = Run()
    name = "model." + ".".join(f"a_very_long_module_name_{i}" for i in range(12))
    run.call(name, [0.0], [0.9])
    assert any(
        line.startswith("FAIL") and f"{name} output 0" in line
        for line in rendered(run.report()).splitlines()
    )


def test_records_without_counterpart_are_counted_and_named():
    run = network(layers=1)
    run.row("extra", "output", "0", None, candidate_node=None, cmp_fail_reason="none there")
    assert "1 golden records without counterpart: extra" in rendered(run.report())
