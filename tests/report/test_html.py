"""The HTML report in a real browser, opened from disk, and the numbers behind its pictures."""

import base64
import json
import re

import numpy as np
import pytest
from playwright.sync_api import Page

import llmdbg
from llmdbg.report.html import render
from llmdbg.report.html.details import details_of
from llmdbg.report.html.tokens import tokens_of
from tests.report import example


@pytest.fixture
def opened(browser, tmp_path):
    """Open a report and fail on any request, dialog or script error that it causes."""
    pages, troubles = [], []

    def opener(report, **options) -> Page:
        path = tmp_path / "report.html"
        path.write_text(render(report), encoding="utf-8")
        page = browser.new_page(**options)
        page.on(
            "request", lambda r: troubles.append(r.url) if not r.url.startswith("file://") else None
        )
        page.on("dialog", lambda d: (troubles.append(d.message), d.dismiss()))
        page.on("pageerror", lambda e: troubles.append(str(e)))
        page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#propagation .main-svg")
        pages.append(page)
        return page

    yield opener
    for page in pages:
        page.close()
    assert troubles == []


def test_answer_first_and_names_are_only_text(opened, tmp_path):
    page = opened(example.report(tmp_path))
    assert page.inner_text("h1").endswith("FAIL: <b>20×</b> the floor")
    assert "its inputs are clean (0.5×)" in page.inner_text("#evidence")
    page.click("#tab-table")
    page.fill("#filter", "onerror")
    assert page.inner_text("#shown") == "2 of 34 rows"
    assert page.locator("#grid .row").first.locator("span").nth(2).inner_text() == example.HOSTILE
    assert page.locator("img").count() == 0


def test_hostile_data_cannot_leave_its_script_element(tmp_path):
    text = render(example.report(tmp_path))
    assert "</script><img" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert example.HOSTILE in json.loads(data[1])["words"]["golden_node"]["values"]
    assert "default-src 'none'" in text


def test_sort_filter_and_states(opened, tmp_path):
    page = opened(example.report(tmp_path))
    page.click("#tab-table")
    assert page.inner_text("#shown") == "34 of 34 rows"
    page.click("#grid .head button:nth-child(2)")
    assert page.locator("#grid .row").first.locator("span").nth(1).inner_text() == "20"
    page.click("#grid .head button:nth-child(2)")
    assert page.locator("#grid .row").first.locator("span").nth(1).inner_text() == "0.5"
    page.locator("#states label", has_text="PASS").click()
    # Of 34 rows 17, those before the culprit, are at half the floor.
    assert page.inner_text("#shown") == "17 of 34 rows"


def test_keyboard_reaches_a_row_and_its_drill_down(opened, tmp_path):
    page = opened(example.report(tmp_path))
    page.focus("#tab-overview")
    page.keyboard.press("ArrowRight")
    page.focus("#grid")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("location.hash") == "#row=1"
    detail = page.inner_text("#detail")
    assert "model.layers.0.input_layernorm" in detail
    assert "Largest differences" in detail
    assert "[5, 3]" in detail
    assert page.locator("#detail .main-svg").count() >= 5


def test_the_strip_shows_which_token_of_which_layer(opened, tmp_path):
    """Rows differ in row 5 alone: by 1, and by 7 at one place, as `example.tensors` makes them."""
    report = example.report(tmp_path, slots=("",))
    tokens = tokens_of(report)
    golden, candidate = (np.load(path).astype("f8") for path in example.tensors(tmp_path))
    expected = np.linalg.norm(candidate[5] - golden[5]) / np.linalg.norm(golden[5]) / 1.7e-3
    # The last of four layers stands alone on either side.
    assert [layer["name"] for layer in tokens["layers"]] == [f"model.layers.{i}" for i in range(3)]
    for layer in tokens["layers"]:
        assert layer["ratios"] == [0, 0, 0, 0, 0, pytest.approx(expected, rel=0.01), 0, 0]
    page = opened(report)
    page.select_option("#strip-kind", "layers × tokens")
    page.wait_for_function(
        "document.querySelector('#strip').textContent.includes('token of step 0')"
    )
    assert "model.layers.2" in page.inner_text("#strip")


def test_a_link_in_the_address_opens_its_row(opened, tmp_path):
    page = opened(example.report(tmp_path))
    page.goto(page.url + "#row=17")
    page.reload()
    page.wait_for_selector("#detail h2")
    assert "FAIL" in page.inner_text("#detail")


def test_charts_are_drawn_where_they_can_be_seen(opened, tmp_path):
    """Opened at a row the overview is hidden, where a chart would have no width."""
    page = opened(example.report(tmp_path))
    page.goto(page.url + "#row=17")
    page.reload()
    page.wait_for_selector("#detail h2")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert page.locator("#propagation .main-svg").count() == 0
    page.click("#tab-overview")
    page.wait_for_selector("#propagation .main-svg")
    assert page.locator("#propagation .main-svg").first.bounding_box()["width"] > 600


def test_unmatched_records_are_listed(opened, tmp_path):
    page = opened(example.report(tmp_path))
    page.click("#tab-unmatched")
    text = page.inner_text("#unmatched")
    assert "Only in the golden run: 2" in text
    assert "Only in the candidate: 2" in text
    assert text.count("model.layers.3.mlp.down_proj") == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(opened, tmp_path, scheme):
    page = opened(example.report(tmp_path), color_scheme=scheme)
    page.click("#tab-table")

    def luminance(css: str) -> float:
        channels = [int(v) / 255 for v in re.findall(r"\d+", css)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    for place in (
        "h1",
        ".hint",
        ".state-FAIL",
        ".state-PASS",
        ".state-INHERITED",
        ".state-UNDECIDED",
    ):
        ink = luminance(page.locator(place).first.evaluate("e => getComputedStyle(e).color"))
        contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
        assert contrast >= 4.5, place  # WCAG 2.2, level AA


def test_fifty_thousand_rows_stay_small_and_in_sight(opened, tmp_path):
    report = example.report(tmp_path, layers=100, steps=63)
    assert report.frame.height >= 50_000
    assert len(render(report).encode()) < 15_000_000
    page = opened(report)
    page.click("#tab-table")
    assert page.locator("#grid .row").count() < 200
    page.evaluate("document.getElementById('grid').scrollTop = 1e9")
    page.wait_for_selector("#row-50401")


def test_pictures_show_what_numpy_says(tmp_path):
    report = example.report(tmp_path)
    details = details_of(report.frame.row(17, named=True))
    golden, candidate = (np.load(path).astype("f8") for path in example.tensors(tmp_path))
    difference = np.abs(candidate - golden)
    assert details["top"][0] == {
        "index": [5, 3],
        "golden": pytest.approx(golden[5, 3], rel=1e-4),
        "candidate": pytest.approx(candidate[5, 3], rel=1e-4),
    }
    assert len(details["top"]) == 20
    assert sum(details["histogram"]["golden"]) == 8 * 96
    tile = np.frombuffer(base64.b64decode(details["tile"]["bdata"]), "<f4").reshape(8, 64)
    assert details["tile"]["shape"] == "8, 64"
    # 96 channels in 64 cells: the even ones hold one channel, the odd ones two.
    channels = [range(i * 96 // 64, (i + 1) * 96 // 64) for i in range(64)]
    expected = [[difference[row, list(c)].max() for c in channels] for row in range(8)]
    np.testing.assert_allclose(tile, expected, rtol=1e-6)
    assert tile.max() == pytest.approx(7.0, rel=1e-4)
    profile = details["row_profile"]
    expected = np.linalg.norm(difference[5]) / np.linalg.norm(golden[5])
    assert profile["y"][5] == pytest.approx(expected, rel=1e-4)
    assert profile["y"][0] == 0


def test_statistics_are_of_all_elements(tmp_path):
    golden = np.random.default_rng(7).normal(size=(3000, 100))
    golden[2999, 99], golden[5, 5] = 12.0, 0.0
    candidate = golden.copy()
    candidate[7, 7], candidate[8, 8] = np.inf, 1e200
    for name, values in (("golden", golden), ("candidate", candidate)):
        np.save(tmp_path / f"{name}.npy", values)
    report = llmdbg.compare(tmp_path / "golden.npy", tmp_path / "candidate.npy").report
    details = details_of(report.frame.row(0, named=True))
    mine, theirs = details["statistics"]
    assert (mine["max"], mine["zero"], mine["nan"], theirs["+inf"]) == (12.0, 1, 0, 1)
    assert mine["mean"] == pytest.approx(golden.mean(), rel=1e-4)
    assert theirs["max"] == 1e200
    assert "drawn from" in details["note"]
    assert max(details["row_profile"]["y"]) > 1e198
    render(report)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("f8", [-np.finfo("f8").max, 0.0, 1.0, np.finfo("f8").max]),
        ("f8", [5e-324, 1e-323, 0.0, 2e-310]),
        ("f4", [-np.finfo("f4").max, 0.0, 1.0, np.finfo("f4").max]),
        ("f4", [1e-45, 3e-45, 0.0, 1e-40]),
    ],
)
def test_pictures_of_the_ends_of_a_dtype(dtype, values, tmp_path):
    golden = np.array(values, dtype).reshape(2, 2)
    candidate = golden[::-1].copy()
    for name, tensor in (("golden", golden), ("candidate", candidate)):
        np.save(tmp_path / f"{name}.npy", tensor)
    report = llmdbg.compare(tmp_path / "golden.npy", tmp_path / "candidate.npy").report
    details = details_of(report.frame.row(0, named=True))
    assert sum(details["histogram"]["golden"]) == sum(details["histogram"]["candidate"]) == 4
    assert np.isfinite(details["histogram"]["edges"]).all()
    assert np.isfinite(details["row_profile"]["y"]).all()
    render(report)


def test_a_tensor_that_is_gone_is_a_note(tmp_path):
    row = example.report(tmp_path).frame.row(17, named=True)
    (tmp_path / "golden.npy").unlink()
    assert "not read again" in details_of(row)["note"]


def test_same_report_same_bytes(tmp_path):
    assert render(example.report(tmp_path)) == render(example.report(tmp_path))
