"""What the page draws from reduced data has the pixels of all data, on uPlot's own canvas."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest

from metronorm.clock import Clock

from .boards import Served, serving
from .browsers import Reader, reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

TICKS = 10_000
SPIKE, NAN, HOLE = 2_777, 4_345, range(7_000, 7_300)

# Draws a run twice on canvases of the same size: from the server's answer, and from every tick.
# Returns how many pixels differ, and how many are not blank.
DRAW = """async ({ run, view, scale }) => {
  // one rasteriser for both: after some reading, Chromium moves a canvas from one to another
  const { getContext } = HTMLCanvasElement.prototype
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return getContext.call(this, kind, { ...options, willReadFrequently: true })
  }
  const main = document.querySelector("script[type=module]").src
  const { Plot } = await import(new URL("charts/plot.js", main))
  const { lines } = await import(new URL("columns.js", main))
  const { readColumns } = await import(new URL("api.js", main))
  const host = document.createElement("div")
  Object.assign(host.style, { position: "fixed", inset: "0 auto auto 0" })
  Object.assign(host.style, { width: "620px", height: "240px" })
  document.body.append(host)
  const plot = new Plot(host, { cursor() {} })
  const style = { id: "it", label: "it", color: "#2f66d0", dash: [], width: 1 }
  const range = scale === "log" ? [1e-3, 1e3] : [-12, 52]
  const draw = (own) => {
    const what = { lines: [{ ...style, ...own, rails: {} }], view, y: scale, linear: 0.05, range }
    plot.show({ ...what, xKind: "tick", formatY: String })
    return new Promise((done) => requestAnimationFrame(() => {
      const canvas = host.querySelector("canvas")
      done(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)
    }))
  }
  const [from, to] = view
  const query = new URLSearchParams({ names: "value", from, to, y: scale, ...plot.pixels })
  const answer = await fetch(`api/series?runs=${run}&${query}`)
  const [line] = lines(readColumns(await answer.arrayBuffer(), 8))
  const reduced = await draw({ x: line.x, y: line.y, gaps: line.gaps })
  const seen = (y) => y === null || (scale === "log" && y <= 0) ? NaN : y
  const full = await draw({ x: values.map((_, i) => i + 1), y: values.map(seen) })
  let [different, drawn] = [0, 0]
  for (let i = 0; i < full.length; i += 4) {
    if (full[i + 3]) drawn += 1
    if ([0, 1, 2, 3].some((k) => full[i + k] !== reduced[i + k])) different += 1
  }
  plot.destroy()
  host.remove()
  HTMLCanvasElement.prototype.getContext = getContext
  return { different, drawn, points: line.x.length }
}"""

# The plotted area as a plot tells it before it draws, and as uPlot has it afterwards.
AREAS = """async () => {
  const main = document.querySelector("script[type=module]").src
  const { Plot } = await import(new URL("charts/plot.js", main))
  const host = document.createElement("div")
  Object.assign(host.style, { position: "fixed", inset: "0 auto auto 0", height: "240px" })
  document.body.append(host)
  const areas = []
  for (const width of [320, 333, 347.6, 620, 1001]) {
    host.style.width = `${width}px`
    const plot = new Plot(host, { cursor() {} })
    const before = plot.pixels
    const line = { id: "it", color: "#2f66d0", dash: [], x: [1, 2], y: [1, 2], rails: {} }
    plot.show({ lines: [line], view: [1, 2], y: "linear", xKind: "tick", formatY: String })
    const { width: drawn, left } = plot.u.bbox
    areas.push([before, { width: Math.round(drawn), left, ratio: uPlot.pxRatio }])
    plot.destroy()
  }
  host.remove()
  return areas
}"""


def _values() -> list[float]:
    chance, level, found = random.Random(7), 0.0, []
    for tick in range(1, TICKS + 1):
        level = 0.999 * level + chance.gauss(0, 0.2)
        found.append({SPIKE: 50.0, NAN: math.nan, NAN + 1: math.inf}.get(tick, level))
    for tick in HOLE:
        found[tick - 1] = math.nan
    return found


@pytest.fixture(scope="module")
def values() -> list[float]:
    return _values()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("pixels")
    with Clock(folder / "run", progress=False) as clock:
        for value in clock.ticks(values):
            clock.log(value=value)
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def reader(browser: Browser, board: Served, values: list[float]) -> Iterator[Reader]:
    with reading(browser, board) as found:
        known = [value if math.isfinite(value) else None for value in values]
        found.page.evaluate("values => { globalThis.values = values }", known)
        yield found


@pytest.mark.parametrize("scale", ["linear", "log", "asinh"])
@pytest.mark.parametrize(
    "view",
    [
        (1, TICKS),
        (SPIKE - 900.3, SPIKE + 4_000.7),
        (NAN - 700, NAN + 1_900),
        (HOLE[0] - 1_500, HOLE[-1] + 1_200),
        (SPIKE - 20, SPIKE + 20),
    ],
)
def test_reduced_and_full_data_have_the_same_pixels(
    reader: Reader, board: Served, view: tuple[float, float], scale: str
) -> None:
    (run,) = (one["id"] for one in board.runs().values())
    found = reader.page.evaluate(DRAW, {"run": run, "view": view, "scale": scale})
    assert found["drawn"] > 1000
    assert found["points"] <= 4 * 620
    assert found["different"] == 0


@pytest.mark.parametrize("ratio", [1, 1.25, 1.5, 2, 2.625])
def test_what_is_asked_for_is_what_will_be_drawn(
    browser: Browser, board: Served, ratio: float
) -> None:
    with reading(browser, board, device_scale_factor=ratio) as found:
        for asked, drawn in found.page.evaluate(AREAS):
            assert asked == drawn
            assert drawn["ratio"] == ratio
