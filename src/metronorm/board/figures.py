"""Figures of runs for Python: `metronorm.board.plot` returns one of Plotly's."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.runs import Run, open_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.board.series.axes import Axis

    OneRun = Run | str | os.PathLike[str]


def plot(
    runs: OneRun | Iterable[OneRun],
    metrics: str | Iterable[str],
    *,
    x: Axis = "tick",
    y: Literal["linear", "log"] = "linear",
    begin: Any = None,
    end: Any = None,
    smooth: float = 0.0,
    rank: int = 0,
) -> Any:
    """Draw metrics of runs as a `plotly.graph_objects.Figure`.

    Up to 4,000 values of a line are drawn as they are. More are put into buckets with fixed edges,
    of which the first, lowest, highest and last value are drawn, so no spike is lost; the line
    below the title says how long the buckets are. `begin` and `end` show a stretch with more
    detail. Values that an axis cannot show (NaN, infinities, 0 and less on a log axis) are counted
    there and marked at the foot. A line is interrupted at NaN and infinities. Ticks that a later
    attempt has done again are dotted. Diamonds on vertical lines are events; a click on their name
    in the legend hides them.

    Args:
        runs: one run, or several; each is a `Run` or its directory.
        metrics: one name of a metric, or several, on the same axis. Also columns of times in
            nanoseconds, such as `wall_ns` and `forward_ns`.
        x: "tick"; "tokens": what all ranks have counted until then (tokens, examples, ...);
            "time": UTC; "elapsed": seconds since the first tick began; "training": the same without
            pauses and ticks that were done twice.
        y: the axis of the values, "linear" or "log".
        begin: the value of x at the left edge; for "time" what `numpy.datetime64` takes. None:
            where the first run begins.
        end: the value of x at the right edge. None: where the last run ends.
        smooth: the weight of a moving average over every tick, at least 0 and less than 1. What was
            logged is then a faint band behind the line.
        rank: whose values.

    Raises:
        ConfigError: no run has such a metric, there is no such axis, or an argument is wrong.
        RunError: there is no such run, or it cannot be read.
        MissingDependencyError: Plotly is not installed.
    """
    given = [runs] if isinstance(runs, Run | str | os.PathLike) else [*runs]
    names = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    if not given or not names:
        raise ConfigError(
            "a figure needs a run and a metric",
            got=f"{len(given)} runs and {len(names)} metrics",
            fix="plot('runs/first', 'loss')",
        )
    if y not in ("linear", "log"):
        raise ConfigError("the axis y must be linear or log", got=repr(y))
    for package in ("plotly", "numpy"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"plot needs the package {package}", fix="pip install 'metronorm[analysis]'"
            )
    opened = [run if isinstance(run, Run) else open_run(Path(run)) for run in given]
    from metronorm.board._plotted import Wanted  # it loads NumPy
    from metronorm.board._plotting import make_figure  # and Plotly

    return make_figure(opened, Wanted(names, x, y, begin, end, smooth, rank))
