"""Figures of Plotly, by the data that are in them."""

import math
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metronorm.board import plot
from metronorm.clock import Clock
from metronorm.errors import ConfigError, MissingDependencyError, RunError
from metronorm.runs import open_run

from ..clock.virtual import VirtualTime

HOSTILE = "<a href='javascript:alert(1)'>x</a>"
LONG = 30_000
SPIKE, DIP, NAN, INF, NEGATIVE = 7_777, 12_345, range(15_000, 15_200), 20_000, 25_000


def record(directory: Path, losses: list[float], *, name: str | None = None, **logged: Any) -> Path:
    time = VirtualTime()
    with Clock(directory, name=name, progress=False, now=time) as clock:
        for loss in clock.ticks(losses):
            time.pass_(1_000_000)
            clock.log(loss=loss, tokens=10, **logged)
    return directory


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which single values are what matters."""
    losses = [2.0 + math.sin(tick) for tick in range(LONG + 1)]
    losses[SPIKE], losses[DIP], losses[INF], losses[NEGATIVE] = 50.0, 0.001, math.inf, -1.0
    losses[NAN.start : NAN.stop] = [math.nan] * len(NAN)
    return record(tmp_path_factory.mktemp("runs") / "long", losses[1:])


def lines(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if trace.yaxis != "y2"]


def rails(figure: Any) -> dict[str, Any]:
    """The marks at the foot, by what they stand for."""
    marks = [trace for trace in figure.data if trace.yaxis == "y2" and trace.mode == "markers"]
    return {trace.hovertemplate.split(" near")[0]: trace for trace in marks}


def note(figure: Any) -> str:
    return str(figure.layout.title.subtitle.text)


def test_a_short_line_has_every_value(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 1.5, 1.25]
    (line,) = lines(figure := plot(record(tmp_path / "run", losses), "loss"))
    assert (line.x.tolist(), line.y.tolist()) == ([1, 2, 3, 4], losses)
    assert line.marker.size.tolist() == [5] * 4
    assert note(figure) == "4 values"
    assert figure.layout.xaxis.title.text == "tick"


def test_no_single_tick_of_a_long_line_is_lost_and_the_figure_says_how_it_was_reduced(
    long: Path,
) -> None:
    (line,) = lines(figure := plot(long, "loss"))
    finite = line.y[np.isfinite(line.y)]
    assert len(finite) < 8_000
    assert (finite.max(), finite.min()) == (50.0, -1.0)
    assert 0.001 in finite
    for tick, value in ((SPIKE, 50.0), (DIP, 0.001), (NEGATIVE, -1.0)):
        assert abs(line.x[line.y == value][0] - tick) < 16
    assert note(figure) == (
        "30,000 values; of every 16 ticks the first, lowest, highest and last; 200 NaN; 1 inf"
    )
    assert line.text[np.argmax(np.where(np.isfinite(line.y), line.y, 0))] == "highest"


def test_the_extremes_of_each_bucket_are_those_of_its_ticks(long: Path) -> None:
    (line,) = lines(plot(long, "loss"))
    values = np.array([row for (row,) in open_run(long).ticks().fetch("select loss from ticks")])
    bucket = (np.arange(1, LONG + 1) // 16)[np.isfinite(values)]
    finite = values[np.isfinite(values)]
    for place, reduce in (("lowest", np.minimum), ("highest", np.maximum)):
        drawn = line.text == place
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        assert (line.y[drawn] == reduce.reduceat(finite, starts)).all()
        assert (line.x[drawn] // 16 == bucket[starts]).all()


def test_what_an_axis_cannot_show_interrupts_the_line_and_is_marked(long: Path) -> None:
    (line,) = lines(figure := plot(long, "loss"))
    gap = line.x[np.isnan(line.y)]
    assert any(NAN.start - 16 <= x <= NAN.stop for x in gap)
    between = line.x[np.isfinite(line.y)]
    assert not ((between > NAN.start + 16) & (between < NAN.stop - 16)).any()
    marks = rails(figure)
    assert marks.keys() == {"NaN", "infinity"}
    assert abs(marks["NaN"].x.min() - NAN.start) < 31
    assert abs(marks["NaN"].x.max() - NAN.stop) < 31
    assert len(marks["infinity"].x) == 1
    marks = rails(figure := plot(long, "loss", y="log"))
    assert marks.keys() == {"NaN", "infinity", "0 or less"}
    assert "1 0 or less" in note(figure)
    assert (lines(figure)[0].y[np.isfinite(lines(figure)[0].y)] > 0).all()


def test_a_value_between_two_nans_is_a_dot(tmp_path: Path) -> None:
    losses = [*[1.0] * 50, math.nan, 9.0, math.nan, *[1.0] * 50]
    (line,) = lines(plot(record(tmp_path / "run", losses), "loss"))
    dots = line.marker.size > 0
    assert line.y[dots].tolist() == [9.0]


def test_a_closer_look_has_every_tick(long: Path) -> None:
    (line,) = lines(figure := plot(long, "loss", begin=SPIKE - 10, end=SPIKE + 10))
    assert line.x[line.y == 50.0].tolist() == [SPIKE]
    assert note(figure) == "21 values"
    assert list(figure.layout.xaxis.range) == [SPIKE - 10, SPIKE + 10]


def test_smoothing_is_over_every_tick_and_what_was_logged_is_behind_it(long: Path) -> None:
    band, line = lines(figure := plot(long, "loss", smooth=0.9))
    assert np.nanmax(band.y) == 50.0
    assert 5 < np.nanmax(line.y) < 10
    assert (band.showlegend, line.showlegend, band.hoverinfo) == (False, True, "skip")
    assert note(figure).startswith("30,000 values;")
    assert rails(figure)


def test_axes_of_tokens_and_of_times(tmp_path: Path) -> None:
    run = record(tmp_path / "run", [3.0, 2.0, 1.0])
    (line,) = lines(figure := plot(run, "loss", x="tokens"))
    assert (line.x.tolist(), figure.layout.xaxis.title.text) == ([10, 20, 30], "tokens")
    (line,) = lines(plot(run, "loss", x="training"))
    assert line.x == pytest.approx([0.001, 0.002, 0.003])
    ends = [time for (time,) in open_run(run).ticks().fetch("select time_ns from ticks")]
    (line,) = lines(plot(run, "loss", x="time"))
    assert line.x.astype(np.int64) == pytest.approx(np.array(ends) // 1000, abs=1)
    middle = datetime.fromtimestamp(ends[1] / 1e9 - 0.0005, UTC).replace(tzinfo=None)
    assert note(plot(run, "loss", x="time", begin=middle)) == "2 values"
    assert note(plot(run, "loss", x="elapsed", end=0.0015)) == "1 value"


def test_runs_have_colours_and_metrics_have_dashes(tmp_path: Path) -> None:
    one = record(tmp_path / "one", [1.0], name=HOSTILE, accuracy=0.5)
    two = record(tmp_path / "two", [1.0], name="two")
    figure = plot([open_run(one), str(two)], ["loss", "accuracy"])
    first, second, third = lines(figure)
    assert first.line.color == second.line.color != third.line.color
    assert first.line.dash == third.line.dash != second.line.dash
    assert "two has no accuracy" in note(figure)
    assert "<a" not in figure.to_json().replace("\\u003c", "<")
    assert [line.name for line in lines(plot((tmp_path).glob("*"), "loss"))].count("two") == 1


def test_runs_of_the_same_name_are_told_apart_by_their_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    figure = plot([record(Path(name), [1.0], name="same") for name in ("a", "b")], "loss")
    assert [line.name for line in lines(figure)] == ["a", "b"]


def test_events_are_marks_and_replaced_ticks_are_dotted(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for tick in clock.ticks(range(1, 31)):
            clock.log(loss=float(tick))
            if tick == 20:
                clock.event("checkpoint", path=f"checkpoints/{HOSTILE}")
    with Clock(tmp_path / "run", resume=True, progress=False) as clock:
        clock.event("resume", checkpoint="checkpoints/tick-00000020", changed=[])
        for _ in clock.ticks(range(5), initial=20):
            clock.log(loss=0.0)
    figure = plot(tmp_path / "run", "loss")
    line, ghost = lines(figure)
    assert (len(line.x), ghost.x.tolist()) == (25, list(range(21, 31)))
    assert (ghost.line.dash, line.line.dash, ghost.showlegend) == ("dot", "solid", False)
    (events,) = [trace for trace in figure.data if trace.name == "events"]
    said = {text for text in events.text if text}
    assert any(text.startswith("saved checkpoints/&lt;a href") for text in said)
    assert any(text.startswith("went on from checkpoints/tick-00000020") for text in said)
    assert events.x[1] == 20


def test_a_metric_that_is_not_there_is_an_error_with_near_ones(long: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("got 'los'; try: loss")):
        plot(long, "los")
    with pytest.raises(ConfigError, match="loss, tokens"):
        plot(long, ["loss", "accuracy"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": "ticks"}, "an axis must be one of tick, tokens"),
        ({"y": "asinh"}, "the axis y must be linear or log"),
        ({"smooth": 1.5}, "smoothing must be at least 0"),
        ({"begin": 5, "end": 3}, "a view must end after it begins"),
        ({"begin": "soon"}, "an end of the axis tick must be a number; got 'soon'"),
        ({"x": "time", "begin": "soon"}, "an end of the axis time must be a time"),
        ({"rank": 7}, "the rank must have recorded ticks; got 7"),
        ({"metrics": []}, "a figure needs a run and a metric"),
        ({"runs": []}, "a figure needs a run and a metric"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told(long: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        plot(**({"runs": long, "metrics": "loss"} | arguments))


def test_a_run_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        plot(tmp_path / "nothing", "loss")


def test_without_plotly_it_says_what_to_install(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=re.escape("metronorm[analysis]")):
        plot(long, "loss")


def test_the_package_is_loaded_without_numpy_plotly_or_a_server() -> None:
    code = "import metronorm.board, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "plotly", "fastapi", "uvicorn", "duckdb"} & set(done.stdout.split())
