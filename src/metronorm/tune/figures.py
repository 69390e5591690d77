"""The loss over each option of a study: as a table in a file, and as a figure of Plotly."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from typing import TYPE_CHECKING, Any

from metronorm.errors import MissingDependencyError
from metronorm.files import write_atomic
from metronorm.tune.findings import fullest, importance, slices
from metronorm.tune.space_file import space_from_plain
from metronorm.tune.study import no_room

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects

    from metronorm.tune.space import Dimension, Space
    from metronorm.tune.study import Known, Study

TABLE = "trials.csv"
_COLUMNS = ("trial", "role", "length", "seed", "status", "seconds")


def write_table(study: Study, space: Space, known: Sequence[Known]) -> None:
    """Write all trials, with the values of their options, to `trials.csv` in the study.

    Raises:
        RunError: it cannot be written.
    """
    names = [each.name for each in space.dimensions]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*_COLUMNS, study.measure, *names])
    for each in known:
        trial, result = each.trial, each.result
        if result is None:
            continue
        length = study.info.shares[trial.rung]
        point = trial.point or {}
        rows.writerow(
            [trial.number, trial.role, f"{length:.4g}", trial.seed, result.status]
            + [f"{result.seconds:.3f}", "" if result.value is None else result.value]
            + [_plain(point[name]) if name in point else "" for name in names]
        )
    try:
        write_atomic(study.directory / TABLE, text.getvalue().encode())
    except OSError as error:
        raise no_room(study.directory, error) from None


def figure(study: Study) -> plotly.graph_objects.Figure:
    """The measure over each option, one chart beside the other; a colour for each length of runs.

    The option that matters most comes first.

    Raises:
        MissingDependencyError: Plotly is not installed.
        RunError: a file of the study is damaged.
    """
    space, known = space_from_plain(study.info.space), study.known()
    found, shares = slices(study, space, known), importance(study, space, known)
    names = sorted(found, key=lambda name: -shares.get(name, 0.0))
    titles = [
        f"{name.rpartition('.')[2]}" + (f" ({shares[name]:.0%})" if name in shares else "")
        for name in names
    ]
    made = _plotly("subplots").make_subplots(
        1, len(names), shared_yaxes=True, subplot_titles=titles
    )
    kinds = {each.name: each.kind for each in space.dimensions}
    for column, name in enumerate(names, 1):
        for rung, share in enumerate(study.info.shares):
            rows = [row for row in found[name] if row["rung"] == rung]
            made.add_scatter(
                x=[_plain(row["at"]) for row in rows],
                y=[row["value"] for row in rows],
                text=[f"trial {row['trial']}" for row in rows],
                mode="markers",
                marker={"color": _COLOURS[rung % len(_COLOURS)], "size": 5 + 2 * rung},
                name=f"length {share:.2g}",
                legendgroup=str(rung),
                showlegend=column == 1,
                row=1,
                col=column,
            )
        if kinds[name] == "log":
            made.update_xaxes(type="log", exponentformat="e", row=1, col=column)
    made.update_yaxes(title_text=study.measure, row=1, col=1)
    made.update_layout(template="plotly_white", title=f"{study.directory.name}: {study.measure}")
    return made


def parallel(study: Study) -> plotly.graph_objects.Figure:
    """The trials of the length that most have, as lines through all options to the measure.

    Options that only some points have are left out.

    Raises:
        MissingDependencyError: Plotly is not installed.
        RunError: a file of the study is damaged.
    """
    plotly = _plotly("graph_objects")
    space, known = space_from_plain(study.info.space), study.known()
    rung = fullest(known)
    trials = [
        each
        for each in known
        if each.trial.rung == rung
        and each.value is not None
        and each.trial.point is not None
        and each.trial.role != "seed"
    ]
    points = [each.trial.point or {} for each in trials]
    axes = [
        _axis(each, [point[each.name] for point in points])
        for each in space.dimensions
        if all(each.name in point for point in points)
    ]
    values = [each.value for each in trials]
    axes.append({"label": study.measure, "values": values})
    line = {"color": values, "colorscale": "Viridis", "reversescale": study.sign < 0}
    made = plotly.Figure(plotly.Parcoords(dimensions=axes, line=line))
    length = study.info.shares[rung]
    made.update_layout(
        template="plotly_white", title=f"{study.directory.name}, length {length:.2g}"
    )
    return made


def _axis(each: Dimension, values: Sequence[Any]) -> dict[str, Any]:
    label = each.name.rpartition(".")[2]
    if each.kind == "choices":
        ticks = [*range(len(each.values))]
        return {
            "label": label,
            "values": [each.values.index(value) for value in values],
            "tickvals": ticks,
            "ticktext": [str(_plain(each.values[tick])) for tick in ticks],
        }
    if each.kind == "log":
        low, high = (math.log10(end) for end in each.values)
        ticks = [low + (high - low) * part / 4 for part in range(5)]
        return {
            "label": label,
            "values": [math.log10(value) for value in values],
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.2g}" for tick in ticks],
        }
    return {"label": label, "values": list(values)}


def _plotly(module: str) -> Any:
    try:
        return importlib.import_module(f"plotly.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "plotly":
            raise
        raise MissingDependencyError(
            "a figure needs the package 'plotly'",
            got="no such package",
            fix="pip install 'metronorm[analysis]'",
        ) from None


_COLOURS = ("#a9bce0", "#3f78dc", "#cc6412", "#2f9644")


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
