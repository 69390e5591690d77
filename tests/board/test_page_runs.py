"""The view of all runs: searched, sorted, compared, and what a person says about a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from metronorm.runs import open_run

from .browsers import reading
from .page_runs import HTML

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

    from .boards import Served


def test_runs_are_searched_sorted_starred_and_pinned(
    browser: Browser, board: Served, folder: Path, odd: str
) -> None:
    with reading(browser, board) as reader:
        page = reader.page
        reader.open("runs")
        rows = page.locator(".run-table tbody tr")
        assert rows.count() == 3
        page.get_by_role("button", name="loss last").click()
        page.wait_for_selector('[aria-sort="ascending"]')
        values = [
            float(it) for it in page.locator(".run-table tbody td:nth-child(6)").all_inner_texts()
        ]
        assert values == sorted(values)
        row = rows.filter(has_text="odd")
        row.get_by_role("button", name="Star").click()
        page.wait_for_selector('.run-table [aria-pressed="true"]')
        row.get_by_role("button", name="Pin").click()
        page.wait_for_selector(".pinned")
        assert rows.first.locator("th").inner_text().startswith("odd")
        assert "%" in rows.nth(1).inner_text()
        page.keyboard.press("/")
        page.keyboard.type("config.optimizer.name=adam")
        page.wait_for_function(
            "() => document.querySelectorAll('.run-table tbody tr').length === 1"
        )
        page.keyboard.press("Escape")
        page.wait_for_function(
            "() => document.querySelectorAll('.run-table tbody tr').length === 3"
        )
        page.keyboard.type("loss <<")
        page.wait_for_selector("#search[aria-invalid]")
    assert json.loads((folder / "run-1/board/notes.json").read_text())["starred"] is True


def test_what_a_search_leaves_out_is_in_no_list_and_in_no_chart(
    browser: Browser, board: Served
) -> None:
    lines = "(n) => document.querySelectorAll('.card.loaded .strip .who').length === n"
    with reading(browser, board) as reader:
        page = reader.page
        for view in ("runs", "metrics"):
            ids = [run["id"] for run in board.runs().values()]
            reader.open(f"{view}?filter=loss&" + "&".join(f"shown={run}" for run in ids[:2]))
            page.locator(".card .strip .who").first.wait_for()
            page.locator("#search").fill("name:odd")
            page.wait_for_function("() => document.querySelectorAll('.rail .runs li').length === 1")
            page.wait_for_function(lines, arg=0)  # the name of a single line need not be said
            assert page.locator(".rail .runs input:checked").count() == 1
            page.locator("#search").fill("name:nobody")
            page.wait_for_function("() => !document.querySelector('.card.loaded')")
            page.locator("#search").fill("")
            page.locator(".card .strip .who").nth(1).wait_for()
            assert page.locator(".rail .runs input:checked").count() == 2, "they are still chosen"


def test_the_search_is_completed_by_keys(browser: Browser, board: Served) -> None:
    with reading(browser, board) as reader:
        page = reader.page
        field, options = page.locator("#search"), page.locator("#completions [role=option]")
        page.keyboard.press("/")
        page.keyboard.type("opt")
        page.locator("#completions").get_by_text("config.optimizer.name").wait_for()
        assert options.all_inner_texts() == ["config.optimizer.name"]
        assert field.get_attribute("aria-expanded") == "true"
        assert not reader.barriers()
        page.keyboard.press("ArrowDown")
        chosen = field.get_attribute("aria-activedescendant")
        assert page.locator(f"#{chosen}").get_attribute("aria-selected") == "true"
        page.keyboard.press("Enter")
        assert field.input_value() == "config.optimizer.name"
        assert options.first.is_hidden()
        page.keyboard.type("=adam -st")
        assert options.all_inner_texts()[:3] == ["state:", "starred", "stalled"]
        reader.keep("completion")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        page.keyboard.type("fin")
        page.keyboard.press("ArrowUp")  # the last one
        page.keyboard.press("Enter")
        assert field.input_value() == "config.optimizer.name=adam -state:finished"
        page.keyboard.press("Escape")
        assert field.input_value() == ""
        page.keyboard.type("has:<im")  # a name with signs that the search has a meaning for
        options.get_by_text(HTML).click()
        assert field.input_value() == f'has:"{HTML}"'
        names = "Array.from(document.querySelectorAll('.run-table tbody th'), (it) => it.innerText)"
        page.wait_for_function(f"() => {names}.map((name) => name.slice(0, 4)).join() === '<img'")
        field.fill("val")
        page.keyboard.press("Escape")  # the list first, then the words
        assert options.first.is_hidden()
        assert field.input_value() == "val"


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_run_gets_a_colour_that_can_be_seen_and_its_own_back(
    browser: Browser, board: Served, folder: Path
) -> None:
    notes = folder / "run-0/board/notes.json"
    with reading(browser, board, color_scheme="light") as reader:
        page = reader.page
        row = page.locator(".runs li", has_text="plain")

        def color() -> str:
            return str(row.evaluate("element => element.style.getPropertyValue('--run')"))

        def save() -> None:
            page.get_by_role("button", name="Save").click()
            page.locator("dialog").wait_for(state="detached")

        def edit() -> None:
            page.get_by_role("button", name="Note, tags and colour: plain").click()

        own = color()
        edit()
        assert not reader.barriers()
        reader.keep("colour")
        page.get_by_role("radio", name="Green").check()
        save()
        assert color() == "#2b8a3e"
        page.get_by_role("button", name="Dark theme").click()
        assert color() == "#5ccf75"  # the same hue
        edit()
        page.get_by_label("Other").last.fill("#101010")
        save()
        assert contrast(color(), "#171b20") >= 3
        page.get_by_role("button", name="Light theme").click()
        assert color() == "#101010"
        wanted = json.loads(notes.read_text())
        assert wanted["color"] == "#101010"
        edit()
        page.get_by_role("radio", name="Automatic").check()
        save()
        page.wait_for_function(
            "([row, own]) => row.style.getPropertyValue('--run') === own",
            arg=[row.element_handle(), own],
        )
    assert "color" not in json.loads(notes.read_text())


def recorded(folder: Path, sql: str) -> dict[str, float]:
    """A number of each run, by its name."""
    runs = (open_run(path.parent) for path in folder.glob("*/run.json"))
    return {run.info.name: run.ticks().fetch(f"select {sql} from ticks")[0][0] for run in runs}


def test_the_baseline_stands_first_and_others_differ_from_it_in_percent(
    browser: Browser, board: Served, folder: Path, odd: str
) -> None:
    plain = board.runs()["plain"]["id"]
    columns = "cols=last:loss&cols=max:learning_rate&cols=config:lr"
    losses = recorded(folder, "arg_max(loss, tick)")
    with reading(browser, board) as reader:
        page = reader.page
        reader.open(f"runs?shown={odd}&pin={plain}&{columns}")
        rows = page.locator(".run-table tbody tr")
        page.wait_for_function("() => document.querySelectorAll('.run-table .diff').length === 4")
        assert rows.first.get_attribute("class") == "pinned"
        for row in rows.all():
            name = row.locator("th a").inner_text()
            last, rate, option = [
                cell.inner_text().split() for cell in row.locator("td").all()[4:7]
            ]
            assert float(last[0]) == pytest.approx(losses[name], rel=1e-3)
            assert len(option) == 1
            if name == "plain":
                assert (len(last), len(rate)) == (1, 1)
                continue
            change = 100 * (losses[name] / losses["plain"] - 1)
            assert last[1][0] in "+\u2212"
            assert float(last[1].rstrip("%").replace("\u2212", "-")) == pytest.approx(
                change, rel=1e-2
            )
            assert rate[1] == "+0%"
        # its line is in the chart, beside those that are shown, and keeps its place in the order
        head, _ = reader.table_of("loss")
        assert sorted(head[1:]) == ["odd", "plain"]
        page.get_by_role("button", name="loss last").click()
        assert rows.first.get_attribute("class") == "pinned"
        rows.first.get_by_role("button", name="Pin").click()
        page.wait_for_function("() => !document.querySelector('.pinned, .diff')")


def test_columns_are_picked_and_one_follows_the_cursor(
    browser: Browser, board: Served, folder: Path
) -> None:
    with reading(browser, board) as reader:
        page, dialog = reader.page, reader.page.locator("dialog")
        reader.open("runs")
        heads = page.locator(".run-table thead th")
        usual = heads.all_inner_texts()
        page.get_by_role("button", name="Columns").click()
        assert not reader.barriers()
        dialog.get_by_label("at the cursor").check()
        dialog.get_by_label("loss last", exact=True).uncheck()
        dialog.get_by_label("Filter columns").fill("learning")
        dialog.get_by_label("learning_rate highest").check()
        reader.keep("columns")
        dialog.get_by_role("button", name="Save").click()
        page.wait_for_function("() => location.hash.includes('max%3Alearning_rate')")
        chosen = [*usual[:4], *usual[5:], "at the cursor", "learning_rate highest"]
        heads.nth(len(chosen) - 1).wait_for()
        assert heads.all_inner_texts() == chosen
        rows = page.locator(".run-table tbody tr")
        highest = recorded(folder, "max(learning_rate)")
        at_100 = recorded(folder, "max(loss) filter (tick = 100)")
        reader.card("loss").locator(".plot").press("Home")
        for _ in range(99):
            page.keyboard.press("ArrowRight")
        for name, value in highest.items():
            row = rows.filter(has_text=name)
            row.get_by_text(f"{at_100[name]:.4g}").wait_for()
            assert float(row.locator("td").all()[-2].inner_text()) == pytest.approx(value, rel=1e-3)
        page.get_by_role("button", name="Columns").click()
        dialog.get_by_role("button", name="Usual columns").click()
        heads.nth(len(usual)).wait_for(state="detached")
        assert heads.all_inner_texts() == usual
