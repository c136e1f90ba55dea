"""The page as a person sees it: in a real browser, on a phone and on a desk, by day and by night."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from browser import Page, find, page
from hand_models import detector

from gn_onnx import cli

pytestmark = pytest.mark.browser

PHONE, DESK = 360, 1280

TOO_WIDE = """
[...document.querySelectorAll("body *")].filter(e => {
  const box = e.getBoundingClientRect();
  const scrolls = e.closest(".wide") && e.closest(".wide") !== e;
  return box.width && !scrolls && (box.right > document.documentElement.clientWidth + 1 || box.left < -1);
}).map(e => e.tagName + " " + (e.className.baseVal ?? e.className) + " " + (e.textContent || "").slice(0, 40))
"""
"""Elements that stick out of the page; what lies in a box that scrolls by itself may be wide."""

SPILLED = """
[...document.querySelectorAll("svg text")].filter(text => {
  const box = text.previousElementSibling.getBBox(), inner = text.getBBox();
  return inner.width > box.width;
}).map(text => text.textContent)
"""
"""Texts that are wider than their boxes."""

SMALLEST = """
Math.min(...[...document.querySelectorAll("body *")].filter(e => e.childElementCount == 0 && e.textContent.trim()
  && e.getBoundingClientRect().width).map(e => parseFloat(getComputedStyle(e).fontSize)
  * (e.ownerSVGElement ? e.getScreenCTM().a : 1)))
"""
"""Height of the smallest letters in pixels, pictures that are drawn smaller included."""

SQUEEZED = """
[...document.querySelectorAll("td, th, p, summary, b")].filter(e => {
  const range = document.createRange();
  range.selectNodeContents(e);
  const box = range.getBoundingClientRect();
  return box.width && box.width < 90 && box.height > 90;
}).map(e => e.textContent.slice(0, 40))
"""
"""Text that stands letter under letter because its column is too narrow."""

FAINT = """
(() => {
  const rgb = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = colour => rgb(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)");
  return [...document.querySelectorAll("body *:not(svg *)")].filter(e => e.childElementCount == 0 && e.textContent.trim())
    .filter(e => { const ink = light(getComputedStyle(e).color);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5; }).map(e => e.textContent.slice(0, 40));
})()
"""
"""Text whose contrast with the page is below 4.5, which WCAG 2 asks for."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The page of a model with long names and a look-alike."""
    folder = tmp_path_factory.mktemp("report")
    model = detector()
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = ["/backbone/stages.0/" + "a_rather_long_name_" * 5 + name if name == "c0" else name for name in field]
    (folder / "detector.onnx").write_bytes(model.SerializeToString())
    path = folder / "report.html"
    assert cli.main(["report", str(folder / "detector.onnx"), "-o", str(path), "--shape", "image=1,3,24,24"]) == 0
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    executable = find()
    if executable is None:
        pytest.skip("no Chromium is installed: apt-get install chromium-headless-shell")
    with page(executable, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_fits_and_says_nothing_on_the_console(
    tab: Page, report: pathlib.Path, tmp_path: pathlib.Path, width: int, dark: bool
) -> None:
    tab.open(report, width=width, dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert tab.complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(TOO_WIDE) == []
    assert tab.evaluate(SPILLED) == []
    assert tab.evaluate(SQUEEZED) == []
    assert tab.evaluate(FAINT) == []
    assert tab.evaluate(SMALLEST) >= 10
    tab.screenshot(tmp_path / "page.png")
    pixels = picture(tmp_path / "page.png")
    assert pixels.shape[0] > pixels.shape[1] * (2 if width == PHONE else 0.5)
    background = pixels[2, 2]
    assert (background.mean() < 60) == dark
    assert 0.01 < np.mean(np.abs(pixels - background).max(axis=-1) > 100) < 0.5  # there is ink, and it can be seen


def test_what_is_wrong_with_a_page_is_seen(tab: Page, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "wrong.html"
    path.write_text(
        '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><body>'
        '<p style="width:900px">wide</p><svg viewBox="0 0 900 40" width="300"><rect width="20" height="20"></rect>'
        '<text style="font-size:12px">a long text</text></svg><img src="gone.png">'
        '<table><td style="width:20px;word-break:break-all;font-size:20px">letter under letter</table>'
        '<i style="color:#ccc">faint</i><script>console.error("bad")</script>'
    )
    tab.open(path, width=PHONE)
    assert any("bad" in complaint for complaint in tab.complaints)
    assert any("NOT_FOUND" in complaint for complaint in tab.complaints)
    assert tab.evaluate("document.documentElement.scrollWidth") > PHONE
    assert tab.evaluate(TOO_WIDE)
    assert tab.evaluate(SPILLED) == ["a long text"]
    assert tab.evaluate(SQUEEZED) == ["letter under letter"]
    assert tab.evaluate(FAINT) == ["faint"]
    assert tab.evaluate(SMALLEST) < 5


def picture(path: pathlib.Path) -> np.ndarray:
    """[height, width, 3] of a PNG."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int16)
