from __future__ import annotations

import pytest
import report_runs
from browser import Browser, find_browser

from hf_iomt.report import write_report

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium: install the package `chromium`")

# Texts of figures that overlap or leave their figure, by more than the rounding of a pixel.
CLASHES = """
(() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const texts = [...svg.querySelectorAll('text')].map(item => [item.textContent, item.getBoundingClientRect()]);
    texts.forEach(([text, box], index) => {
      const sides = [frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom];
      const out = Math.max(...sides);
      if (out > 1) found.push(`${text} leaves its figure by ${out}`);
      for (const [other, next] of texts.slice(index + 1)) {
        const width = Math.min(box.right, next.right) - Math.max(box.left, next.left);
        const height = Math.min(box.bottom, next.bottom) - Math.max(box.top, next.top);
        if (width > 0.5 && height > 0.5) found.push(`${text} | ${other}`);
      }
    });
  }
  return found;
})()
"""
SEEN = "[...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width > 0).length"
SMALLEST = """
Math.min(...[...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width > 0).flatMap(
  svg => [...svg.querySelectorAll('text')].map(item =>
    parseFloat(getComputedStyle(item).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)))
"""


@pytest.fixture(scope="module")
def browser():
    with Browser(PROGRAM) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages")
    folders = {
        "5 cycles": report_runs.long_run(path / "short", 5, broken=0.1, evaluations=1),
        "50 cycles": report_runs.long_run(path / "a-run-with-a-name-that-is-longer-than-others", 50),
        "500 cycles": report_runs.long_run(path / "long", 500, evaluations=60),
    }
    written = {name: write_report([folder], folder) for name, folder in folders.items()}
    return {**written, "two runs": write_report(list(folders.values())[:2], path)}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["5 cycles", "50 cycles", "500 cycles", "two runs"])
def test_nothing_overlaps_overflows_or_fails(browser, pages, name, width, dark):
    browser.open(pages[name], width, dark)
    assert browser.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert browser.evaluate(CLASHES) == []
    assert browser.errors == []
    assert browser.requests() == [pages[name].resolve().as_uri()]
    # One of the two widths of each figure, with letters that can be read.
    assert browser.evaluate(SEEN) == browser.evaluate("document.querySelectorAll('figure').length")
    assert browser.evaluate(SMALLEST) >= 9.5
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 24, 29)" if dark else "rgb(253, 253, 254)")


def test_what_is_looked_for_is_found(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><body><div style='width: 2000px'>wide</div><svg viewBox='0 0 100 50' width='300'>"
        "<text x='10' y='20'>first</text><text x='12' y='22'>second</text><text x='90' y='40'>outside</text></svg>"
        "<script>console.error('wrong'); throw new Error('worse');</script>",
        encoding="utf-8",
    )
    browser.open(page, 400)
    assert browser.evaluate("document.documentElement.scrollWidth") == 2008
    clashes = browser.evaluate(CLASHES)
    assert clashes[0] == "first | second" and clashes[1].startswith("outside leaves its figure")
    assert "wrong" in browser.errors[0] and "worse" in browser.errors[1]
