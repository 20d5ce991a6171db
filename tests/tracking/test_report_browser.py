from collections.abc import Iterator
from pathlib import Path

import pytest

from tatara.tracking import write_report
from tracking import browser
from tracking.run_records import HOSTILE, full_run

EXECUTABLE = browser.find()
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium or Chrome")

OVERFLOWING = """
[...document.querySelectorAll("body *")].filter((element) => {
  if (element.closest(".scroll, .graph, pre, nav, .hidden, .skip") || !element.getClientRects().length) return false;
  return element.getBoundingClientRect().right > innerWidth + 1;
}).map((element) => `${element.tagName}.${element.className}`).slice(0, 5)
"""
CONTRAST = """
(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || getComputedStyle(element).visibility === "hidden") continue;
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...new Set(poor)];
})()
"""


@pytest.fixture(scope="module")
def page() -> Iterator[browser.Browser]:
    assert EXECUTABLE
    opened = browser.Browser(EXECUTABLE)
    yield opened
    opened.close()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_report(full_run(HOSTILE + "unbreakable" * 40), path)
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen_is_legible_and_runs_clean(
    page: browser.Browser, report: Path, width: int, dark: bool
) -> None:
    page.errors.clear()
    page.open(report, width=width, dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.errors == []


def test_hovering_a_chart_reads_out_its_values_and_the_log_switch_needs_no_script(
    page: browser.Browser, report: Path
) -> None:
    page.open(report, width=1280)
    hover = (
        "((plot) => { const box = plot.getBoundingClientRect();"
        "plot.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + box.width / 2, clientY: box.top }));"
        "return plot.querySelector('.tip').innerText; })"
    )
    assert "similarity 0.5" in page.evaluate(f"{hover}(document.querySelector('.plot[data-x]'))")
    shown = page.evaluate(f"{hover}(document.querySelector('.plot:not([data-x])'))")
    assert "step 30" in shown
    assert "training 3.0" in shown
    displays = (
        "[...document.querySelector('.log-switch ~ .planes').children].map((plane) => getComputedStyle(plane).display)"
    )
    assert page.evaluate(displays) == ["grid", "none"]
    page.evaluate("document.querySelector('.log-switch').checked = true")
    assert page.evaluate(displays) == ["none", "grid"]
