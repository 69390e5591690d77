"""The view of options: runs as lines through what they were given, to what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metronorm.clock import Clock

from .boards import serving
from .browsers import reading

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

RATES = (1e-4, 1e-3, 1e-2)
LOSSES = (3.0, 2.0, 2.5)
NORMS = ("layer", "rms", "layer")
POINTS = """() => [...document.querySelectorAll('.parallel .through')].map((line) =>
  [line.querySelector('title').textContent.split('\\n')[0],
   line.getAttribute('points').split(' ').map((point) => point.split(',').map(Number))])"""


def record(folder: Path) -> None:
    for number, (rate, loss, norm) in enumerate(zip(RATES, LOSSES, NORMS, strict=True)):
        config = {"optimizer": {"learning_rate": rate}, "norm": norm, "ticks": 2}
        with Clock(folder / f"{number:03d}", config=config, progress=False) as clock:
            for tick in clock.ticks(range(2)):
                clock.log(loss=9.0 - tick, validation_loss=loss + 1 - tick)


def test_lines_lead_through_the_options_that_differ(browser: Browser, tmp_path: Path) -> None:
    record(tmp_path)
    with serving(tmp_path) as served, reading(browser, served) as reader:
        page = reader.page
        reader.open("options")
        page.wait_for_selector(".parallel .through")
        names = page.locator(".parallel .axis-name").all_text_contents()
        assert names[-1] == "validation_loss"
        assert len(names) == 3
        assert "ticks" not in names  # which all have alike
        lines = dict(page.evaluate(POINTS))
        assert sorted(lines) == ["000", "001", "002"]
        at = next(i for i, name in enumerate(names) if name.endswith("learning_rate"))
        heights = [lines[run][at][1] for run in sorted(lines)]
        # a log axis, upwards
        assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
        assert heights[0] > heights[2]
        norm = names.index("norm")
        assert lines["000"][norm] == lines["002"][norm] != lines["001"][norm]
        ends = [lines[run][-1][1] for run in sorted(lines)]
        assert ends[0] - ends[1] == pytest.approx(2 * (ends[2] - ends[1]), abs=0.3)
        assert ends[0] < ends[2] < ends[1]  # the lowest loss stands lowest
        assert page.locator(".slice").count() == 2
        assert page.locator(".slice .dot").count() == 6
        # another measure: of this one the values are all the same
        page.get_by_label("Metric").select_option("loss")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.axis-name')].at(-1).textContent === 'loss'"
        )
        assert len({line[-1][1] for line in dict(page.evaluate(POINTS)).values()}) == 1


def test_runs_that_have_the_same_options_say_so(browser: Browser, tmp_path: Path) -> None:
    with Clock(tmp_path / "run", config={"rate": 1.0}, progress=False) as clock:
        for _ in clock.ticks(range(2)):
            clock.log(loss=1.0)
    with serving(tmp_path) as served, reading(browser, served) as reader:
        reader.open("options")
        reader.page.wait_for_selector("text=No options differ")
