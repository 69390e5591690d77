"""Real uPlot on real canvases in Chromium: all points against what is sent, by `columns.js`."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from metronorm.board.series.pixels import View
from metronorm.board.series.reduced import Reduced
from metronorm.board.series.reducing import add_marks, reduce_line
from metronorm.board.uplot import uplot_folder

from ..browsers import chromium
from .test_pixels import Case, points_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[3] / "src/metronorm/board/page"


@pytest.fixture(scope="module", params=[1, 2])
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page with uPlot and the page's own `columns.js`, on a screen of 1 or 2 device pixels."""
    files = {path.name: path for folder in (PAGE, uplot_folder()) for path in folder.glob("*.*")}
    files["canvas.html"] = HERE / "canvas.html"
    with chromium() as browser:
        context = browser.new_context(device_scale_factor=request.param)
        context.route(
            "http://board.test/**",
            lambda route: route.fulfill(path=files[route.request.url.rpartition("/")[2]]),
        )
        page = context.new_page()
        page.goto("http://board.test/canvas.html")
        page.wait_for_function("window.ready")
        yield page


def compared(page: Page, case: Case, scale: str) -> Any:
    x, y = case.line()
    ratio = page.evaluate("devicePixelRatio")
    view = case.view(x)
    view = View(view.begin, view.end, case.width * ratio, 0, ratio)
    if scale == "log":
        y = np.abs(y) + 1e-3
    line = reduce_line(points_of(x, y), view)
    add_marks(line, points_of(x, y), view)
    inside = y[(x >= view.begin) & (x <= view.end) & np.isfinite(y)]
    low, high = (inside.min(), inside.max()) if len(inside) else (1, 2)
    plot = {
        "begin": view.begin,
        "end": view.end,
        "low": low,
        "high": high if high > low else low + 1,
        "scale": scale,
        "width": case.width,
        "height": 150,
    }
    values = [value if math.isfinite(value) else None for value in y.tolist()]
    answer = base64.b64encode(Reduced.of([("loss", None, line)], view, {}).to_bytes()).decode()
    drawn = {"x": x.tolist(), "y": values, "plot": plot, "answer": answer}
    return page.evaluate("compared => compare(compared)", drawn)


def cases(number: int) -> Iterator[tuple[Case, str]]:
    rng = np.random.default_rng(11)
    for seed in range(number):
        case = Case(
            seed=seed,
            count=int(rng.choice([300, 3000])),
            kind=str(rng.choice(["ticks", "time", "pauses", "tokens"])),
            wander=float(rng.choice([0.0, 1.0])),
            spike=float(rng.choice([0.0, 1e3, -50.0])),
            spoiled=float(rng.choice([0.0, 0.001, 0.05])),
            hole=bool(rng.random() < 0.2),
            width=int(rng.integers(80, 300)),
            left=0,
            where=float(rng.uniform(-0.1, 0.8)),
            size=float(rng.choice([0.1, 0.5, 1.0])),
            whole_edges=bool(rng.random() < 0.5),
        )
        yield case, str(rng.choice(["linear", "log", "asinh"]))


@pytest.mark.parametrize("number", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_canvases_have_the_same_pixels(page: Page, number: int) -> None:
    drawn = 0
    for case, scale in cases(number):
        found = compared(page, case, scale)
        assert found["differ"] == 0, (case, scale, found)
        drawn += found["drawn"]
    assert drawn > 10_000
