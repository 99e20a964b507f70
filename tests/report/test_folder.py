"""The report folder: what is in it, and what never happens to an earlier one."""

import errno
import json
import sys

import polars as pl
import pytest

from llmdbg._core import LlmdbgError
from llmdbg.report import folder, tables
from llmdbg.report.columns import AIT_COLUMNS
from llmdbg.report.destination import destination
from tests.synthetic import network

TABLES = {"compare.csv", "compare.parquet", "alignment.json", "summary.json"}
NAMES = TABLES | {"report.html"}


def names(path):
    return {p.name for p in path.iterdir()}


def test_a_new_folder_holds_every_file(tmp_path):
    target = destination(tmp_path / "a" / "report")
    written = folder.write(network().report(), target)
    assert names(target) == NAMES
    assert written["directory"] == str(target)
    assert names(tmp_path / "a") == {"report"}


def test_formats_are_chosen_and_none_stays_stale(tmp_path):
    every = ["html", "xlsx", "jsonl", "markdown", "junit"]
    written = folder.write(network().report(), tmp_path / "report", formats=every)
    others = {"report.html", "compare.xlsx", "compare.jsonl", "report.md", "junit.xml"}
    assert names(tmp_path / "report") == TABLES | others
    assert set(written) == {"directory", "csv", "parquet", "alignment", "summary", *every}
    folder.write(network().report(), tmp_path / "report", force=True, formats=[])
    assert names(tmp_path / "report") == TABLES


def test_a_format_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(LlmdbgError, match=r"pip install 'llmdbg-ascend\[report\]'"):
        folder.write(network().report(), tmp_path / "report", formats=["xlsx"])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_used_itself(tmp_path):
    assert destination(tmp_path) == tmp_path
    folder.write(network().report(), tmp_path)
    assert names(tmp_path) == NAMES


def test_in_a_folder_with_other_files_a_dated_one_is_made(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    target = destination(tmp_path)
    assert target.parent == tmp_path
    assert target.name.startswith("llmdbg_compare_20")
    folder.write(network().report(), target)
    assert names(tmp_path) == {"notes.txt", target.name}


def test_two_reports_of_one_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = destination(None)
    first.mkdir()
    second = destination(None)
    third = destination(None)
    assert first != second
    assert second == third


def test_an_earlier_report_is_kept_unless_forced(tmp_path):
    target = tmp_path / "report"
    folder.write(network().report(), destination(target))
    before = (target / "summary.json").read_text()
    with pytest.raises(FileExistsError, match="--force"):
        destination(target)
    assert (target / "summary.json").read_text() == before

    (target / "notes.txt").write_text("mine")
    again = destination(target, force=True)
    folder.write(network(wrong=("layers.4.mlp.down_proj", 0.05)).report(), again, force=True)
    assert names(target) == NAMES | {"notes.txt"}
    assert json.loads((target / "summary.json").read_text())["verdict"] == "diverged"


def test_a_file_in_the_way_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file"):
        destination(tmp_path / "file")


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_nothing_and_destroys_nothing(tmp_path, monkeypatch, force):
    target = tmp_path / "report"
    if force:
        folder.write(network().report(), target)
    before = {p.name: p.read_bytes() for p in target.iterdir()} if force else {}

    def full(_frame, path):
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tables, "write_parquet", full)
    with pytest.raises(OSError, match="cannot write the report: No space left on device") as info:
        folder.write(network().report(), target, force=force)
    assert info.value.filename == str(target)
    assert names(tmp_path) == ({"report"} if force else set())
    if force:
        assert {p.name: p.read_bytes() for p in target.iterdir()} == before


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(_frame, _path):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "write_csv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write(network().report(), tmp_path / "report")
    assert names(tmp_path) == set()


def test_the_same_report_gives_the_same_bytes(tmp_path):
    for name in "ab":
        folder.write(network().report(), tmp_path / name)
    for name in NAMES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_csv_starts_with_the_columns_that_scripts_know(tmp_path):
    tables.write_csv(network().frame(), tmp_path / "compare.csv")
    header = (tmp_path / "compare.csv").read_text().splitlines()[0].split(",")
    assert header[:22] == [
        *("token_id", "data_id", "golden_data_path", "golden_dtype", "golden_shape"),
        *("golden_max_value", "golden_min_value", "golden_mean_value"),
        *("my_data_path", "my_dtype", "my_shape", "my_max_value", "my_min_value", "my_mean_value"),
        *("cosine_similarity", "max_relative_error", "mean_relative_error"),
        *("max_absolute_error", "mean_absolute_error", "kl_divergence"),
        *("relative_euclidean_distance", "cmp_fail_reason"),
    ]
    assert list(AIT_COLUMNS) == header[:22]
    row = pl.read_csv(tmp_path / "compare.csv").row(0, named=True)
    assert row["golden_dtype"] == "torch.float32"
    assert row["golden_shape"] == "[16, 64]"
    assert row["golden_data_path"] == "data.safetensors#t0"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx"])
def test_a_name_is_never_a_formula_in_a_spreadsheet(tmp_path, name):
    run = network(layers=1)
    run.row(name, "output", "0", 1e-3)
    tables.write_csv(run.frame(), tmp_path / "compare.csv")
    written = pl.read_csv(tmp_path / "compare.csv")["golden_node"][-1]
    assert written == "'" + name


def test_parquet_keeps_names_and_numbers_as_they_are(tmp_path):
    run = network(layers=1)
    run.row("=1+1", "output", "0", -0.5)
    tables.write_parquet(run.frame(), tmp_path / "compare.parquet")
    last = pl.read_parquet(tmp_path / "compare.parquet").row(-1, named=True)
    assert (last["golden_node"], last["relative_euclidean_distance"]) == ("=1+1", -0.5)
