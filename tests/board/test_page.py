"""The page in a real Chromium, on a real server over recorded runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run

from ..store.stores import line, new_run, write_tape
from .boards import TOKEN, Served, serving
from .browsers import reading
from .page_runs import ANSI, HTML, NAN, TICKS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# how much of the page has moved by itself while it was loaded, as browsers count it
SHIFTED = """() => new Promise((done) => {
  const sum = (list) => list.getEntries().reduce((total, { value }) => total + value, 0)
  const watch = new PerformanceObserver((list) => done(sum(list)))
  watch.observe({ type: "layout-shift", buffered: true })
  setTimeout(() => done(0), 500)
})"""
PAGE = Path(__file__).parents[2] / "src/metronorm/board/page"


def test_both_languages_have_the_same_words_and_all_that_are_used() -> None:
    english, chinese = (json.loads((PAGE / f"words.{it}.json").read_text()) for it in ("en", "zh"))
    assert list(english) == list(chinese)
    for key, words in english.items():
        assert sorted(re.findall(r"\{\w+\}", words)) == sorted(re.findall(r"\{\w+\}", chinese[key]))
    scripts = "".join(path.read_text() for path in PAGE.rglob("*.js"))
    used = set(re.findall(r"""\bt\("([^"]+)\"""", scripts))
    assert used <= set(english)


def test_no_markup_is_made_from_text_and_nothing_is_inline() -> None:
    for path in PAGE.rglob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|Function\(", path.read_text()
        )
    page = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>|https?:", page)


def test_the_modules_of_the_first_views_are_asked_for_at_once() -> None:
    early = (PAGE / "early.js").read_text()
    common = re.search(r"const modules = `([^`]+)`", early)
    assert common
    for view in ("metrics", "runs"):
        needed = [PAGE / "main.js", PAGE / "views" / f"{view}.js"]
        for module in needed:  # it grows
            names = re.findall(r'^import [^;]*?"(\.[^"]+)";', module.read_text(), re.MULTILINE)
            found = [(module.parent / name).resolve() for name in names]
            needed += [each for each in dict.fromkeys(found) if each not in needed]
        own = re.search(rf"\b{view}: `([^`]+)`", early)
        assert own
        names = [str(module.relative_to(PAGE).with_suffix("")) for module in needed[1:]]
        assert sorted(common[1].split() + own[1].split()) == sorted(names)


def test_a_view_that_is_opened_again_asks_for_its_first_chart_before_its_modules(
    browser: Browser, board: Served, odd: str
) -> None:
    with reading(browser, board) as reader:
        reader.page.goto(f"{board.url}/#metrics?run={odd}")
        reader.page.reload()
        reader.page.wait_for_selector(".card.loaded")
        reader.page.reload()
        reader.page.wait_for_selector(".card.loaded")
        began = reader.page.evaluate(
            """() => Object.fromEntries(["api/series", "views/metrics.js"].map((name) => {
              const found = performance.getEntriesByType("resource")
              return [name, found.filter((each) => each.name.includes(name))
                .map((each) => [each.name, each.startTime])]
            }))"""
        )
        (module,), (first, *others) = began["views/metrics.js"], began["api/series"]
        assert first[1] <= module[1]
        assert first[0] not in [address for address, _ in others], "it is asked for once"
        assert TOKEN not in reader.page.evaluate("JSON.stringify(localStorage)")


def test_thousands_of_names_are_listed_bit_by_bit(
    browser: Browser, board: Served, folder: Path
) -> None:
    run = new_run(folder / "names")
    names = [f"layer{number}/{one}" for number in range(150) for one in ("mean", "max")]
    alone = [f"single{number}/value" for number in range(5_000)]
    write_tape(run, [line(1, dict.fromkeys([*names, *alone], 1.0))])
    with reading(browser, board) as reader:
        reader.open(f"metrics?run={board.runs()['names']['id']}")
        sections = reader.page.locator("details.section")
        assert sections.first.locator("summary").inner_text().endswith("5,000"), "names alone"
        assert sections.count() == 100 + 1, "and that of the ticks"
        assert sections.first.locator(".card").count() == 48
        reader.page.get_by_role("button", name="100 of 151").click()
        assert sections.count() == 151 + 1
        sections.nth(1).locator("summary").click()
        sections.nth(1).locator(".card.loaded").nth(1).wait_for()
        reader.page.locator(".toolbar .field").fill("layer149/")
        reader.page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
    shutil.rmtree(run)


def test_the_numbers_of_a_chart_are_those_of_duckdb(
    browser: Browser, board: Served, folder: Path, odd: str
) -> None:
    with reading(browser, board) as reader:
        reader.open(f"metrics?run={odd}&from=70&to=90")
        _, rows = reader.table_of("loss")
        ticks = open_run(folder / "run-1").ticks()
        recorded = ticks.fetch("select tick, loss from ticks where tick between 70 and 90")
        assert [row[0] for row in rows] == [f"tick {tick}" for tick, _ in recorded]
        shown = [float(row[1]) for row in rows]
        assert shown == pytest.approx([loss for _, loss in recorded], rel=1e-3)
        assert max(shown) == 50  # the spike


def test_what_has_no_place_on_an_axis_is_counted_and_reached(
    browser: Browser, board: Served, odd: str
) -> None:
    with reading(browser, board) as reader:
        reader.open(f"metrics?run={odd}&y=log")
        chips = reader.card("loss").locator(".chip").all_inner_texts()
        assert chips == ["NaN 1", "+Inf 1", "≤ 0: 1"]
        assert not reader.barriers()
        reader.card("loss").locator(".plot").focus()
        reader.page.keyboard.press("n")
        reader.page.wait_for_function("() => location.hash.includes('from=')")
        _, rows = reader.table_of("loss")
        ticks = [int(row[0].removeprefix("tick ")) for row in rows]
        assert ticks[0] < NAN < ticks[-1]
        assert NAN not in ticks
        assert ticks[-1] - ticks[0] < TICKS / 4


def test_a_chart_is_read_by_keys_alone(
    browser: Browser, board: Served, folder: Path, odd: str
) -> None:
    recorded = dict(open_run(folder / "run-1").ticks().fetch("select tick, loss from ticks"))
    with reading(browser, board) as reader:
        reader.open(f"metrics?run={odd}&from=1&to={TICKS}")
        plot = reader.card("loss").locator(".plot")
        assert "loss" in plot.get_attribute("aria-label")
        plot.focus()
        for keys, tick in [(["End"], TICKS), (["ArrowLeft"] * 2, TICKS - 2), (["Home"], 1)]:
            for key in keys:
                reader.page.keyboard.press(key)
            said = f"tick {tick}: {recorded[tick]:.4g}"
            reader.page.wait_for_function(
                "said => document.getElementById('live').textContent === said", arg=said
            )
        reader.page.keyboard.press("+")
        reader.page.wait_for_function("() => location.hash.includes('from=')")
        reader.page.keyboard.press("0")
        reader.page.wait_for_function("() => !location.hash.includes('from=')")


def test_follow_keeps_the_newest_ticks_at_the_edge_until_a_reader_pans(
    browser: Browser, board: Served, odd: str
) -> None:
    with reading(browser, board) as reader:
        reader.open(f"metrics?run={odd}")
        plot = reader.card("loss").locator(".plot")
        quarter = (TICKS - 1) / 4
        for key, follows, length in [
            ("f", True, quarter),
            ("-", True, 2 * quarter),
            ("Shift+ArrowLeft", False, 2 * quarter),
            ("f", True, 2 * quarter),
            ("f", False, 2 * quarter),
        ]:
            plot.press(key)
            found = reader.page.wait_for_function(
                """([follows, length]) => {
                  const query = new URLSearchParams(location.hash.split("?")[1])
                  const [from, to] = ["from", "to"].map((name) => Number(query.get(name)))
                  const isThere = Math.abs(to - from - length) < 1e-6
                  return isThere && (query.get("follow") === "1") === follows ? [from, to] : null
                }""",
                arg=[follows, length],
            )
            _, end = found.json_value()
            assert (end == TICKS) == (key != "Shift+ArrowLeft"), key


def test_the_theme_is_that_of_the_system_until_a_reader_chooses(
    browser: Browser, board: Served
) -> None:
    with reading(browser, board, color_scheme="dark") as reader:
        page = reader.page

        def is_dark() -> bool:
            ground = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
            return sum(map(int, re.findall(r"\d+", ground))) < 300

        assert is_dark()
        page.emulate_media(color_scheme="light")
        page.wait_for_selector('[data-theme="light"]')
        assert not is_dark()
        page.get_by_role("button", name="Dark theme").click()
        assert is_dark()
        page.reload()
        page.wait_for_selector(".view-runs")
        assert is_dark()


def test_a_link_restores_the_view(browser: Browser, board: Served, odd: str) -> None:
    view = f"metrics?run={odd}&x=elapsed&y=asinh&smooth=0.5"
    with reading(browser, board) as reader:
        reader.open(view)
        before = reader.card("loss").locator(".plot").get_attribute("aria-label")
        reader.page.reload()
        reader.page.wait_for_selector(".view-metrics")
        reader.settle()
        assert reader.page.evaluate("location.hash") == f"#{view}"
        assert reader.card("loss").locator(".plot").get_attribute("aria-label") == before
        assert reader.page.locator("main select").first.input_value() == "elapsed"
        assert reader.page.evaluate(SHIFTED) < 0.05


def test_names_are_never_markup(browser: Browser, board: Served) -> None:
    run = board.runs()[HTML.replace("/", "")]["id"]
    with reading(browser, board) as reader:
        for view in ("runs", "config", "metrics"):
            reader.open(f"{view}?run={run}")
            assert reader.page.locator("main img, .rail img").count() == 0
        titles = reader.page.locator(".card h2").all_inner_texts()
        assert HTML in titles
        assert ANSI.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e") in titles
        reader.open(f"samples?run={run}")
        reader.page.get_by_text("<b>tick 300</b>").wait_for()


def test_new_ticks_and_new_runs_arrive_by_themselves(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as served, reading(browser, served) as reader:
        reader.page.get_by_text("No runs yet").wait_for()
        with Clock(tmp_path / "live", config={"ticks": 100}, progress=False) as clock:
            for tick in clock.ticks(range(1, 8)):
                clock.log(loss=1 / tick)
                if tick == 3:
                    clock.flush()
                    reader.page.locator(".runs .name", has_text="live").wait_for()
                    reader.page.locator(".runs a.run").click()
                    reader.page.locator(".strip b", has_text=re.compile("^(0.5|1)$")).wait_for()
            clock.flush()
            reader.page.locator(".strip b", has_text="0.1429").wait_for()
            reader.card("loss").locator(".plot").press("f")  # follow
            reader.page.wait_for_function("() => location.hash.includes('follow')")
            for tick in clock.ticks(range(8, 30)):
                clock.log(loss=1 / tick)
            clock.flush()
            ends = "() => document.querySelector('.card').dataset.shown?.split(' ')[1] === '29'"
            reader.page.wait_for_function(ends)
            reader.card("loss").locator(".plot").press("Shift+ArrowLeft")  # panning ends it
            reader.page.wait_for_function("() => !location.hash.includes('follow')")
        reader.page.locator(".run-header .state", has_text="finished").wait_for()


def test_an_unknown_token_gets_a_field_and_the_right_one_gets_in(
    browser: Browser, board: Served
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(5000)
    page.goto(board.url)
    page.locator("#token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("must be that of this board").wait_for()
    page.locator("#token").fill("a token that is only for tests")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector(".run-table")
    assert "token" not in page.url
    context.close()
