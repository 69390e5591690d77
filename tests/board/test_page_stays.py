"""What a page keeps: the runs of a view while others begin, colours, values without room."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from metronorm.clock import Clock

from .boards import record, serving
from .browsers import reading

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

PHASES = ("forward", "backward", "update", "sample", "evaluate", "checkpoint", "one", "two")


def test_a_view_names_its_runs_and_stays_with_them(browser: Browser, tmp_path: Path) -> None:
    for name in ("first", "second"):
        record(tmp_path / name, [1.0, 2.0])
    with serving(tmp_path) as served, reading(browser, served) as reader:
        ids = {name: run["id"] for name, run in served.runs().items()}
        page = reader.page
        page.get_by_role("link", name="Config", exact=True).click()
        page.wait_for_function(f"() => location.hash.includes('run={ids['second']}')")
        record(tmp_path / "third", [1.0])
        page.locator(".runs .name", has_text="third").wait_for()
        assert page.locator("h1").inner_text() == "second"
        page.get_by_role("link", name="Compare", exact=True).click()
        page.get_by_text("A · third").first.wait_for()
        record(tmp_path / "fourth", [1.0])
        page.locator("main option", has_text="fourth").first.wait_for(state="attached")
        chosen = "list => list.map((one) => one.selectedOptions[0].text)"
        assert page.locator("main select").evaluate_all(chosen) == ["third", "second"]
        address = page.url.split("#")[1]
        page.get_by_role("link", name="Runs", exact=True).click()
        page.wait_for_selector(".view-runs")
        assert "a=" not in page.url
        assert "pin=" not in page.url  # a comparison changes nothing elsewhere
        reader.open(address)
        page.get_by_text("A · third").first.wait_for()


def test_phases_have_different_colours(browser: Browser, tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(3)):
            for phase in PHASES:
                with clock.phase(phase):
                    pass
    with serving(tmp_path) as served, reading(browser, served) as reader:
        reader.open("ticks")
        legend = reader.card("Phases of a tick").locator(".legend > span")
        colors = legend.evaluate_all(
            "all => all.map(({ style }) => style.getPropertyValue('--run'))"
        )
        assert len(colors) == len(PHASES) + 2  # data and unattributed
        assert len(set(colors)) == len(colors)
        assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)


SEEN = """strip => {
  const seen = [...strip.querySelectorAll(".value")].filter((value) => {
    const { left, right, top, bottom } = value.getBoundingClientRect()
    const at = [right - 2, (top + bottom) / 2]
    return document.elementFromPoint(...at)?.closest(".value") === value
  })
  return [seen.length, strip.dataset.more]
}"""


def test_lines_without_room_for_their_values_are_counted(browser: Browser, tmp_path: Path) -> None:
    for number in range(10):
        record(tmp_path / f"{number} has a name of many letters", [1.0, 2.0])
    with serving(tmp_path) as served, reading(browser, served) as reader:
        reader.open("metrics")
        strip = reader.card("loss").locator(".strip")
        reader.page.locator('.strip[data-more^="+"]').first.wait_for()
        seen, more = strip.evaluate(SEEN)
        assert seen >= 1
        assert more == f"+{10 - seen}"
        reader.open("runs")  # a wide card has room for all
        strip = reader.card("loss").locator(".strip")
        strip.locator("b").nth(9).wait_for()
        assert strip.evaluate(SEEN) == [10, ""]
