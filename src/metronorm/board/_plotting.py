"""How a figure looks: lines, marks and events of `metronorm.board._plotted` as Plotly's traces.

| what a run has | is drawn as |
| --- | --- |
| few values | a line through all of them |
| more | a line through four points of each bucket: first, lowest, highest, last |
| smoothed values | a line; the values as they were logged are a faint band behind it |
| NaN, infinities, 0 and less on a log axis | marks at the foot; a line is interrupted there |
| ticks that a later attempt did again | a dotted line |
| events | vertical lines with a diamond |
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from metronorm.board._plotted import read_contents
from metronorm.board.series.reducing import BELOW, NAN, NEGATIVE, POSITIVE
from metronorm.files import shown_path
from metronorm.text import counted, printable, short_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.board._plotted import Contents, Mark, Plotted, Wanted
    from metronorm.board.series._arrays import Floats
    from metronorm.board.series.axes import Axis
    from metronorm.runs import Run

# each has 3.5:1 on white and on the dark grounds of notebooks
HUES = (
    "#3f78dc", "#cc6412", "#2f9644", "#d43d5c", "#9760dc", "#0f8a9d", "#9a6836", "#c64490",
    "#80861c", "#697a8a",
)  # fmt: skip
DASHES = ("solid", "dash", "dashdot", "longdash")
INK, HAIRLINE, CLEAR = "#787c82", "rgba(120, 124, 130, 0.25)", "rgba(0, 0, 0, 0)"
FEW = 60  # points of a line, which then get a dot each
_KINDS = {
    NAN: ("x", "NaN"),
    POSITIVE: ("triangle-up", "infinity"),
    NEGATIVE: ("triangle-down", "minus infinity"),
    BELOW: ("line-ns-open", "0 or less"),
}
_PLACES = np.array(["first", "lowest", "highest", "last", ""])  # the place -1 is the last of these
_TITLES = {
    "tick": "tick",
    "time": "time (UTC)",
    "elapsed": "seconds since the first tick",
    "training": "seconds of training",
}


def make_figure(runs: Sequence[Run], wanted: Wanted) -> go.Figure:
    """The figure; errors are those of `metronorm.board.plot`."""
    labels = _labels(runs)
    contents = read_contents(runs, labels, wanted)
    several = len(runs) > 1
    figure = go.Figure(layout=_layout(contents, wanted))
    rows = 0
    for line in contents.lines:
        name = wanted.names[line.name]
        if several:
            name = labels[line.run] if len(wanted.names) == 1 else f"{labels[line.run]}, {name}"
        style = {"name": _text(name), "legendgroup": f"{line.run} {line.name}"}
        figure.add_trace(_line(line, wanted.x, _pen(line, several), style))
        if line.is_band or not wanted.smooth:
            figure.add_traces(_rail(line, contents, wanted.x, rows, _color(line, several), style))
            rows += 1
    for number, label in enumerate(labels):
        marks = [mark for mark in contents.marks if mark.run == number]
        if marks:
            name = f"events of {label}" if several else "events"
            color = HUES[number % len(HUES)] if several else INK
            figure.add_trace(_events(marks, wanted.x, color, _text(name)))
    return figure


def _layout(contents: Contents, wanted: Wanted) -> dict[str, Any]:
    title = _text(", ".join(wanted.names))
    x_title = _TITLES.get(wanted.x) or _text(contents.unit or wanted.x)
    axis = {"gridcolor": HAIRLINE, "linecolor": INK, "zeroline": False}
    both = _on_axis(np.array([contents.view.begin, contents.view.end]), wanted.x)
    look = {
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": INK},
        "hovermode": "closest",
        "xaxis": axis,
        "yaxis": axis,
    }
    return {
        # a template, so that update_layout(template=...) puts another look in its place
        "template": {"layout": look},
        "title": {"text": title, "subtitle": {"text": _text(_note(contents, wanted.x))}},
        "xaxis": {"title": {"text": x_title}, "range": list(both)},
        "yaxis": {"type": wanted.y, "exponentformat": "power"},
        # from 0 at the foot to 1 at the top: rails and events
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        "height": 420,
        "margin": {"t": 80, "b": 50, "l": 60, "r": 20},
    }


def _note(contents: Contents, x: Axis) -> str:
    """How the lines were reduced, what an axis cannot show, and what is not in the figure."""
    lines = [line for line in contents.lines if line.is_band] or contents.lines
    rows = sum(line.counts["rows"] for line in lines)
    buckets = {line.bucket for line in lines if line.bucket is not None}
    parts = [counted(rows, "value")]
    if buckets:
        length = _length(buckets.pop(), contents, x)
        parts.append(f"of every {length} the first, lowest, highest and last")
    for kind, words in (("nan", "NaN"), ("pinf", "inf"), ("ninf", "-inf"), ("below", "0 or less")):
        count = sum(line.counts[kind] for line in lines)
        if count and (kind != "below" or contents.is_log):
            parts.append(f"{count:,} {words}")
    return "; ".join([*parts, *contents.notes])


def _length(bucket: float, contents: Contents, x: Axis) -> str:
    if x in ("tick", "tokens"):
        return f"{bucket:,.6g} {contents.unit if x == 'tokens' else 'ticks'}"
    return short_time(bucket * 1e6 if x == "time" else bucket)


def _line(line: Plotted, x: Axis, pen: dict[str, Any], style: dict[str, Any]) -> go.Scatter:
    there = np.isfinite(line.y)
    before, after = np.append(False, there[:-1]), np.append(there[1:], False)
    dots = there & ((len(line.x) <= FEW) | ~(before | after))  # a line needs two points
    return go.Scatter(
        x=_on_axis(line.x, x),
        y=line.y,
        mode="lines+markers",
        line=pen,
        marker={"size": np.where(dots, 5, 0), "color": pen["color"], "line": {"width": 0}},
        opacity=0.35 if line.is_band else 0.7 if line.attempt is not None else 1,
        text=_PLACES[line.place],
        hovertemplate="%{x}: %{y:.6g} %{text}",
        hoverinfo="skip" if line.is_band else None,
        showlegend=not line.is_band and line.attempt is None,
        **style,
    )


def _rail(
    line: Plotted, contents: Contents, x: Axis, row: int, color: str, style: dict[str, Any]
) -> list[go.Scatter]:
    """A mark at the foot for each pixel with values that the axis cannot show."""
    view, (pixels, kinds) = contents.view, line.marks
    found = []
    for kind, (symbol, words) in _KINDS.items():
        here = pixels[(kinds & kind) > 0]
        if len(here):
            place = view.begin + (here + 0.5) / view.width * (view.end - view.begin)
            found.append(
                go.Scatter(
                    x=_on_axis(place, x),
                    y=np.full(len(here), 0.02 + 0.03 * (row % 12)),
                    yaxis="y2",
                    mode="markers",
                    marker={"symbol": symbol, "color": color, "size": 8, "line": {"color": color}},
                    hovertemplate=f"{words} near %{{x}}",
                    showlegend=False,
                    **style,
                )
            )
    return found


def _events(marks: Sequence[Mark], x: Axis, color: str, name: str) -> go.Scatter:
    """A vertical line for each event, and a diamond at its top."""
    places = np.repeat(_on_axis(np.array([mark.x for mark in marks]), x), 3)
    return go.Scatter(
        x=places,
        y=np.tile([0, 0.97, np.nan], len(marks)),
        yaxis="y2",
        mode="lines+markers",
        line={"color": color, "width": 1, "dash": "dot"},
        marker={"symbol": "diamond", "size": np.tile([0, 8, 0], len(marks)), "color": color},
        opacity=0.6,
        text=[text for mark in marks for text in ("", _text(mark.words), "")],
        hovertemplate="%{text}",
        name=name,
    )


def _color(line: Plotted, several: bool) -> str:
    return HUES[(line.run if several else line.name) % len(HUES)]


def _pen(line: Plotted, several: bool) -> dict[str, Any]:
    """Of several runs each has a colour, and each metric a dash; of one run a metric has both."""
    number = line.name + line.run // len(HUES) if several else line.name // len(HUES)
    dash = "dot" if line.attempt is not None else DASHES[number % len(DASHES)]
    return {"color": _color(line, several), "width": 1.5, "dash": dash}


def _on_axis(values: Floats, x: Axis) -> Any:
    """Values of an axis of the series as they are shown."""
    if x == "time":  # from ms since 1970
        return (values * 1e3).astype("datetime64[us]")
    return values / 1e9 if x in ("elapsed", "training") else values


def _labels(runs: Sequence[Run]) -> list[str]:
    names = [run.info.name for run in runs]
    if len(set(names)) < len(names):
        names = [shown_path(run.directory) for run in runs]
    return [printable(name) for name in names]


def _text(text: str) -> str:
    """Text for Plotly, which reads some HTML in it."""
    return html.escape(printable(text), quote=False)
