"""A run in a notebook."""

import math
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.run_html import MOST_METRICS

from ..clock.virtual import VirtualTime
from ..store.tapes import write_training

HOSTILE = "<img src=x onerror=alert(1)>"


def record(directory: Path, losses: list[float], **logged: float) -> None:
    time = VirtualTime()
    with Clock(directory, name=HOSTILE, progress=False, now=time) as clock:
        for loss in clock.ticks(losses):
            with clock.phase("forward"):
                time.pass_(30_000)
            time.pass_(10_000)
            clock.log(loss=loss, tokens=128, **logged)


def shown(directory: Path) -> ElementTree.Element:
    html = open_run(directory)._repr_html_()
    assert not re.search(r"<(script|img|style|link)|javascript:", html)
    return ElementTree.fromstring(html)


def rows(tree: ElementTree.Element) -> dict[str, list[str]]:
    """The cells of each row of all tables, by the first of them."""
    found = [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]
    return {name: cells for name, *cells in found}


def test_a_run_shows_how_it_stands_its_metrics_and_where_its_time_went(tmp_path: Path) -> None:
    losses = [2.0, 1.5, math.nan, 0.5, -math.inf, 0.25]
    record(tmp_path / "run", losses, **{HOSTILE: 1.0}, validation_loss=3.0)
    tree = shown(tmp_path / "run")
    heading = "".join(tree[0].itertext())
    assert heading.startswith(f"{HOSTILE} · finished · 6 ticks · 0:00 · 3,200,000 tokens/s")
    found = rows(tree)
    assert [*found][1:6] == ["loss", "validation_loss", "tokens", HOSTILE, "tick time, median"]
    assert found["loss"] == ["0.2500", "0.2500", "2", "2", ""]
    assert found["tick time, median"] == ["40 µs", "40 µs", "40 µs", "", ""]
    assert found["forward"] == ["75%", ""]
    assert found["unattributed"] == ["25%", ""]


def test_a_spike_of_one_tick_in_a_long_run_is_in_its_chart(tmp_path: Path) -> None:
    losses = [1.0] * 5000
    losses[1234] = 9.0
    record(tmp_path / "run", losses)
    tree = shown(tmp_path / "run")
    assert rows(tree)["loss"][:3] == ["1", "1", "9"]
    (chart,) = [row for row in tree.iter("tr") if row[0].text == "loss"]
    path = next(chart.iter("path")).attrib["d"]
    tops = [float(top) for top in re.findall(r"V([\d.]+)", path)]
    assert (min(tops), sorted(tops)[1]) == (2.0, 26.0)


def test_a_run_of_two_ranks_and_a_run_without_ticks_are_shown(tmp_path: Path) -> None:
    write_training(tmp_path / "two", ticks=20, ranks=2, seed=0)
    assert "2 ranks" in "".join(shown(tmp_path / "two")[0].itertext())
    with Clock(tmp_path / "none", progress=False):
        pass
    assert "0 ticks" in "".join(shown(tmp_path / "none")[0].itertext())


def test_metrics_that_are_left_out_are_counted(tmp_path: Path) -> None:
    record(tmp_path / "run", [1.0], **{f"metric {number}": 1.0 for number in range(40)})
    text = "".join(shown(tmp_path / "run").itertext())
    assert f"{MOST_METRICS} of 42 metrics" in text


def test_a_run_that_is_gone_or_damaged_says_so(tmp_path: Path) -> None:
    record(tmp_path / "run", [float(tick) for tick in range(2000)])
    run = open_run(tmp_path / "run")
    (part,) = (tmp_path / "run" / "ticks").rglob("*.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    text = "".join(shown(tmp_path / "run").itertext())
    assert text.startswith(f"<Run {HOSTILE!r} at {tmp_path / 'run'}>: ")
    part.write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    assert "a damaged part was left out" in "".join(shown(tmp_path / "run").itertext())
    shutil.rmtree(tmp_path / "run")
    text = "".join(ElementTree.fromstring(run._repr_html_()).itertext())
    assert f"at {tmp_path / 'run'}>: " in text
    assert "run.json" in text


def test_its_text_names_the_directory_below_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "runs" / "one", [1.0])
    run = open_run(tmp_path / "runs" / "one")
    assert repr(run) == f"<Run {HOSTILE!r} at {tmp_path / 'runs' / 'one'}>"
    monkeypatch.chdir(tmp_path)
    assert repr(run) == f"<Run {HOSTILE!r} at runs/one>"
