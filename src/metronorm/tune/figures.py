"""The loss over each option of a study: as a table in a file, and as a figure of Plotly."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from metronorm.errors import MissingDependencyError
from metronorm.files import write_atomic
from metronorm.tune.findings import importance, slices
from metronorm.tune.space_file import space_from_plain
from metronorm.tune.study import no_room

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects

    from metronorm.tune.space import Space
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
    try:
        from plotly.subplots import make_subplots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "plotly":
            raise
        raise MissingDependencyError(
            "a figure needs the package 'plotly'",
            got="no such package",
            fix="pip install 'metronorm[analysis]'",
        ) from None
    space, known = space_from_plain(study.info.space), study.known()
    found, shares = slices(study, space, known), importance(study, space, known)
    names = sorted(found, key=lambda name: -shares.get(name, 0.0))
    titles = [
        f"{name.rpartition('.')[2]}" + (f" ({shares[name]:.0%})" if name in shares else "")
        for name in names
    ]
    made = make_subplots(1, len(names), shared_yaxes=True, subplot_titles=titles)
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


_COLOURS = ("#a9bce0", "#3f78dc", "#cc6412", "#2f9644")


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
