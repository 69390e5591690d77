"""Every view of the page on runs that a real training has left: what it shows is on record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from metronorm.runs import compare, diagnose, open_run

from .browsers import PHONE, reading
from .trained_runs import KILLED, OBSERVED, SAVED, TICKS, train_all

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .boards import Served

PAGE = Path(__file__).parents[2] / "src/metronorm/board/page"
VIEWS = {
    "runs": "killed",
    "metrics": "killed",
    "ticks": "two ranks",
    "resources": "first",
    "norms": "first",
    "diagnosis": "diverged",
    "samples": "killed",
    "config": "first",
    "compare": "two ranks",
    "options": "first",
}
UNITS = {"": 1, "µs": 1e3, "ms": 1e6, "s": 1e9, "%": 0.01, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "runs"
    folder.mkdir()
    train_all(folder)
    return folder


@pytest.fixture(scope="module")
def ids(board: Served) -> dict[str, str]:
    return {name: run["id"] for name, run in board.runs().items()}


def number(text: str) -> float:
    """A number as the page writes it; times in nanoseconds."""
    found = re.fullmatch(r"([\u2212\d.,e-]+) ?(|µs|ms|s|%|KiB|MiB|GiB)", text)
    assert found, text
    return float(found[1].replace(",", "").replace("\u2212", "-")) * UNITS[found[2]]


def numbers(rows: list[list[str]]) -> dict[int, list[float | None]]:
    """The rows of a table of ticks, by the tick."""
    return {
        int(first.removeprefix("tick ")): [number(cell) if cell else None for cell in cells]
        for first, *cells in rows
    }


def close(values: list[float | None]) -> list[Any]:
    """The values as the page shows them: three digits of them, at least."""
    return [value if value is None else pytest.approx(value, rel=6e-3) for value in values]


@pytest.mark.parametrize(
    "look",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark", "locale": "zh-CN"},
        {"color_scheme": "dark", "viewport": PHONE},
    ],
    ids=lambda look: "-".join(str(it) if isinstance(it, str) else "phone" for it in look.values()),
)
def test_every_view_opens_without_barriers(
    browser: Browser, board: Served, ids: dict[str, str], look: dict[str, Any], request: Any
) -> None:
    words = json.loads((PAGE / "words.en.json").read_text())
    barriers = []
    with reading(browser, board, **look) as reader:
        for view, run in VIEWS.items():
            reader.open(f"{view}?run={ids[run]}&pin={ids['first']}")
            text = reader.page.locator("body").inner_text()
            assert len(reader.page.locator("main").inner_text()) > 20, view
            assert not [key for key in words if "." in key and key in text.split()], view
            wide = reader.page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert wide[0] == wide[1], f"{view} is wider than the window"
            assert not reader.page.locator(".message.error").all_inner_texts(), view
            reader.keep(f"{request.node.callspec.id}-{view}")
            barriers += [f"{view}: {barrier}" for barrier in reader.barriers()]
    assert not barriers, "\n".join(barriers)


def test_the_table_has_the_state_and_the_losses_of_each_run(
    browser: Browser, board: Served, folder: Path, ids: dict[str, str]
) -> None:
    with reading(browser, board) as reader:
        reader.open("runs?cols=last:loss&cols=best:validation_loss&cols=config:optimizer.name")
        rows = reader.page.locator(".run-table tbody tr")
        assert rows.count() == len(ids)
        for name in ids:
            run = open_run(folder / name)
            ticks = run.ticks()
            ((last, tick),) = ticks.fetch("select arg_max(loss, tick), max(tick) from ticks")
            row = rows.filter(has_text=name)
            row.get_by_text(f"{last:.4g}").first.wait_for()  # once it is read
            cells = row.locator("td").all_inner_texts()
            assert cells[2].startswith(f"{tick} / {TICKS}")
            assert number(cells[4].split()[0]) == pytest.approx(last, rel=1e-3)
            if "validation_loss" in ticks.metrics:
                ((best,),) = ticks.fetch("select min(validation_loss) from ticks")
                assert number(cells[5].split()[0]) == pytest.approx(best, rel=1e-3)
            else:
                assert name == "diverged"
                assert cells[1].startswith("failed: DivergenceError")
            assert cells[6] == "adamw"


def test_replayed_ticks_are_ghosts_and_the_resume_is_marked(
    browser: Browser, board: Served, folder: Path, ids: dict[str, str]
) -> None:
    run = open_run(folder / "killed")
    effective = dict(run.ticks().fetch("select tick, loss from ticks"))
    before = dict(run.ticks("full").fetch("select tick, loss from ticks where attempt = 0"))
    assert max(before) == KILLED  # no finished tick was lost
    with reading(browser, board) as reader:
        reader.open(f"metrics?run={ids['killed']}")
        head, rows = reader.table_of("loss")
        assert head == ["ticks", "killed", "attempt 0, replaced"]
        shown = numbers(rows)
        assert sorted(shown) == sorted(effective)
        for tick, cells in shown.items():
            old = before[tick] if SAVED < tick <= KILLED else None
            assert cells == close([effective[tick], old]), tick
        # the resume stands at the tick that it went on from, on an axis of tokens too
        reader.open(f"metrics?run={ids['killed']}&x=tokens&from=0&to={128 * TICKS}")
        plot = reader.card("loss").locator(".plot")
        plot.focus()
        plot.press("Home")
        strip = reader.card("loss").locator(".strip")
        assert "replaced" not in strip.inner_text()  # not yet
        for _ in range(SAVED - 1):
            plot.press("ArrowRight")
        strip.locator(".event").get_by_text(f"resumed tick-{SAVED:08}").wait_for()
        assert strip.locator(".at").inner_text() == f"{128 * SAVED / 1000:g}k tokens"
        for _ in range(KILLED - SAVED):
            plot.press("ArrowRight")
        values = strip.locator(".value b").all_inner_texts()
        assert values == [f"{each[KILLED]:.4g}" for each in (effective, before)]


def test_phases_tick_times_and_the_slowest_ticks(
    browser: Browser, board: Served, folder: Path, ids: dict[str, str]
) -> None:
    ticks = open_run(folder / "first").ticks()
    names = ticks.phases
    columns = ", ".join(f"{name}_ns" for name in names)
    recorded = ticks.fetch(f"select tick, wall_ns, {columns} from ticks order by tick")
    with reading(browser, board) as reader:
        reader.open(f"ticks?run={ids['first']}")
        head, rows = reader.table_of("Phases of a tick")
        assert sorted(head[1:]) == sorted(names)
        shown = numbers(rows)
        assert list(shown) == [row[0] for row in recorded]
        for tick, _, *spent in recorded:
            in_order = dict(zip(names, spent, strict=True))
            assert shown[tick] == close([in_order[name] or 0.0 for name in head[1:]]), tick
        head, rows = reader.table_of("Tick times")
        edges = [[number(edge) for edge in name.split(" \u2013 ")] for name in head[1:]]
        for (_, *counts), (_, wall_ns, *_) in zip(rows, recorded, strict=True):
            ((low, high),) = [
                edge for edge, count in zip(edges, counts, strict=True) if count == "1"
            ]
            assert low * 0.99 <= wall_ns <= high * 1.01
        table = reader.page.get_by_role("region", name="Slowest ticks").locator("tbody tr")
        slowest = sorted(recorded, key=lambda row: -row[1])[:20]
        cells = [row.locator("th, td").all_inner_texts() for row in table.all()]
        assert [int(row[0]) for row in cells] == [row[0] for row in slowest]
        assert [number(row[1]) for row in cells] == close([row[1] for row in slowest])


@pytest.mark.parametrize(("value", "words"), [("wall", "tick time"), ("arrival", "arrival")])
def test_ranks_stand_beside_each_other(
    browser: Browser, board: Served, folder: Path, ids: dict[str, str], value: str, words: str
) -> None:
    recorded = dict(
        open_run(folder / "two ranks")
        .ticks()
        .fetch(
            f"""select tick, list(if({value}_ns is null, null, {value}_ns::DOUBLE) order by rank)
                from ticks group by tick"""
        )
    )
    assert all(len(each) == 2 for each in recorded.values())
    with reading(browser, board) as reader:
        reader.open(f"ticks?run={ids['two ranks']}&ranks={value}")
        assert reader.card("Ranks").locator(".legend").inner_text().startswith(words)
        head, rows = reader.table_of("Ranks")
        assert head == ["ticks", "Rank 0", "Rank 1"]
        shown = numbers(rows)
        assert sorted(shown) == sorted(recorded)
        for tick, cells in shown.items():
            assert cells == close(recorded[tick]), tick


def test_the_machine_and_the_layers(
    browser: Browser, board: Served, folder: Path, ids: dict[str, str]
) -> None:
    run = open_run(folder / "first")
    samples = run.resources().fetch("select memory_bytes from resources order by time_ns")
    ticks = run.ticks()
    layer = "blocks.0.attention_norm"
    stat = f"norm.{layer}.std"
    spread = dict(ticks.fetch(f'select tick, "{stat}" from ticks where "{stat}" is not null'))
    assert sorted(spread) == list(range(OBSERVED, TICKS + 1, OBSERVED))
    with reading(browser, board) as reader:
        reader.open(f"resources?run={ids['first']}")
        _, rows = reader.table_of("memory_bytes")
        assert [number(row[1]) for row in rows] == close([value for (value,) in samples])
        reader.open(f"norms?run={ids['first']}&stat=std")
        head, rows = reader.table_of("std: layers \u00d7 ticks")
        shown, at = numbers(rows), head.index(layer) - 1
        for tick, value in spread.items():
            column = max(first for first in shown if first <= tick)  # a few ticks
            assert shown[column][at] == pytest.approx(value, rel=1e-3)


def test_samples_findings_config_and_comparison(
    browser: Browser, board: Served, folder: Path, ids: dict[str, str]
) -> None:
    first, other = open_run(folder / "first"), open_run(folder / "two ranks")
    with reading(browser, board) as reader:
        page = reader.page
        reader.open(f"samples?run={ids['first']}")
        texts = [sample.read().decode() for sample in reversed(first.samples("full"))]
        page.locator(".sample pre").nth(len(texts) - 1).wait_for()
        assert page.locator(".sample pre").all_text_contents() == texts

        reader.open(f"diagnosis?run={ids['diverged']}")
        findings = diagnose(open_run(folder / "diverged"))
        assert page.locator(".finding code").all_inner_texts() == [it.rule for it in findings]
        assert page.locator(".finding h2").all_inner_texts() == [it.what for it in findings]
        link = page.locator(".finding .ticks a").first
        assert int(link.inner_text()) == findings[0].ticks[0]
        link.click()
        page.wait_for_selector(".view-metrics")

        reader.open(f"config?run={ids['first']}")
        options = dict(
            zip(
                page.locator("dl.options dt").all_inner_texts(),
                page.locator("dl.options dd").all_inner_texts(),
                strict=True,
            )
        )
        assert float(options["optimizer.learning_rate"]) == 1e-2
        assert int(options["ticks"]) == TICKS
        assert options["torch"] == first.info.versions["torch"]

        reader.open(f"compare?run={ids['two ranks']}&pin={ids['first']}")
        result = compare(first, other)
        assert page.locator(".statements li").all_inner_texts() == [
            *result.statements,
            *result.notes,
        ]
        rows = page.get_by_role("region", name="Options").locator("tbody tr").all()
        assert [row.locator("th, td").all_inner_texts() for row in rows] == [
            ["optimizer.learning_rate", "0.01", "0.003"],
            ["sample_every", "20", "0"],
        ]
