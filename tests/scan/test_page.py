"""The page of a scan in a real browser, opened from disk."""

import re

import numpy as np
import pytest

from llmdbg.scan import page, scan
from tests.scan.files import Run

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def found(tmp_path):
    """Three layers that grow, then NaN in an operator whose name is an attack."""
    rng = np.random.default_rng(0)
    run, x = Run(), rng.standard_normal((4, 32)).astype(np.float16)
    for layer in range(3):
        run.call(f"m.layers.{layer}.proj", [x], [x * np.float16(2)], op_type="Linear")
        x = x * np.float16(2)
    bad = x.copy()
    bad[1, 2:10] = np.nan
    run.call(HOSTILE, [x], [bad])
    return scan(run.write(tmp_path / "d"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_answer_bars_and_growth_in_both_schemes(browser, found, tmp_path, scheme):
    path = tmp_path / "report.html"
    path.write_text(page.render(found), encoding="utf-8")
    troubles = []
    shown = browser.new_page(color_scheme=scheme)
    shown.on("request", lambda r: None if r.url.startswith("file://") else troubles.append(r.url))
    shown.on("dialog", lambda d: (troubles.append(d.message), d.dismiss()))
    shown.on("pageerror", lambda e: troubles.append(str(e)))
    shown.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
    shown.goto(path.as_uri())
    shown.wait_for_selector("#growth .main-svg")

    # The name is text: everywhere it stands, and no element came of it.
    assert shown.inner_text("h1").startswith(f"{HOSTILE} makes NaN from finite inputs")
    assert shown.locator("img").count() == 0
    first = shown.locator("#health tbody tr").first
    assert first.locator("td").nth(3).inner_text() == f"{HOSTILE} output 0"
    # 8 of 128 values are NaN: a sixteenth of the bar.
    bar = first.locator(".bar .nan")
    assert bar.get_attribute("title") == "8 nan of 128"
    assert bar.evaluate("e => e.style.width") == "6.25%"
    shown.fill("#filter", "layers.1")
    assert shown.inner_text("#shown") == "2 of 2 shown"
    # Three layers are one line of three points.
    assert shown.evaluate("document.getElementById('growth').data[0].y.length") == 3

    def luminance(css):
        channels = [int(v) / 255 for v in re.findall(r"\d+", css)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    paper = luminance(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
    for place, style in (("h1", "color"), (".level.error", "color"), ("#growth text", "fill")):
        ink = shown.locator(place).first.evaluate(f"e => getComputedStyle(e).{style}")
        ink = luminance(ink)
        contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
        assert contrast >= 4.5, place  # WCAG 2.2, level AA
    shown.close()
    assert troubles == []
