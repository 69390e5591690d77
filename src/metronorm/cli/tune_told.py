"""What `metronorm tune` prints: a line for every trial, and at the end what was found."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.table import Table

from metronorm.cli.console import Console
from metronorm.files import shown_path
from metronorm.text import printable, short_number, short_time, short_value
from metronorm.tune.findings import bought, cost, importance, ranked
from metronorm.tune.rungs import best_of
from metronorm.tune.study import BEST

if TYPE_CHECKING:
    from metronorm.tune.space import Point, Space
    from metronorm.tune.study import Result, Study, Trial

MOST_LINES = 10  # of the table


def tell_trial(study: Study, space: Space, trial: Trial, result: Result, best: bool) -> None:
    """Print a line of a trial that has ended."""
    length = f"{study.info.shares[trial.rung]:.2g}"
    value = short_number(result.value) if result.value is not None else result.status
    how = "best" if best else trial.role if trial.role != "search" else ""
    print(
        f"{trial.number:>4}  length {length:<5} {value:>13}  {how:<8}"
        f"{short_time(result.seconds * 1e9):>9}  {in_words(trial.point)}"
        + (f"  {printable(result.reason)[:120]}" if result.reason else ""),
        flush=True,
    )


def in_words(point: Point | None) -> str:
    """A point in short: the last words of its options, and their values."""
    if point is None:
        return "the config as it is"
    return " ".join(f"{name.rpartition('.')[2]}={_value(each)}" for name, each in point.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "(" + " ".join(f"{n.rpartition('.')[2]}={v}" for n, v in value.items()) + ")"
    return str(value)


def print_findings(study: Study, space: Space) -> None:
    """Print the best trials, what matters, and what the search cost and bought."""
    known, console = study.known(), Console()
    best = best_of(study, known)
    if best is None:
        print("no whole run has come to its end: nothing was found")
        return
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("trial", "length", study.measure):
        table.add_column(name, justify="right")
    names = [each.name for each in space.dimensions]
    for name in names:
        table.add_column(name.rpartition(".")[2], justify="right", overflow="fold")
    for each in ranked(study, known)[:MOST_LINES]:
        point = each.trial.point or {}
        table.add_row(
            f"{each.trial.number}" + ("*" if each.trial.role == "default" else ""),
            f"{study.info.shares[each.trial.rung]:.2g}",
            short_number(each.value or 0.0),
            *(_value(point[name]) if name in point else "" for name in names),
        )
    console.print()
    console.print(table)
    print("* the config as it is")
    shares = importance(study, space, known)
    if shares:
        parts = (f"{name.rpartition('.')[2]} {100 * share:.0f}%" for name, share in shares.items())
        print(f"\nwhat matters   {', '.join(parts)}")
    spent = cost(known)
    ends = ", ".join(f"{count} {status}" for status, count in spent.statuses.items())
    print(
        f"what it cost   {spent.trials} trials ({ends}), as long as {short_value(spent.runs)} "
        f"whole runs: {short_time(spent.seconds * 1e9)}"
    )
    print(f"what it bought {_bought_in_words(study, known)}")
    command = "finetune" if study.info.command == "finetune" else "train"
    path = shown_path(study.directory / BEST)
    print(f"\nthe best: metronorm {command} --config {shlex.quote(path)}")


def _bought_in_words(study: Study, known: Any) -> str:
    found = bought(study, known)
    if found is None and known[0].value is None:
        return "a run that comes to its end: the config as it is did not"
    if found is None:
        return "nothing: the config as it is was the best"
    text = f"{study.measure} {short_number(found.best)} instead of {short_number(found.default)}"
    if found.low is None or found.high is None:
        return f"{text}, with one seed: it may be chance"
    inside = found.low <= 0 <= found.high
    return (
        f"{text}, means of {found.seeds} seeds; the difference is {short_number(found.low)} to "
        f"{short_number(found.high)}" + (": it may be chance" if inside else "")
    )
