"""Which runs `metronorm show` prints, in which order; and the same for scripts, as JSON."""

from __future__ import annotations

import dataclasses
import math
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import ConfigError, RunError
from metronorm.runs.directions import better
from metronorm.store.run_directory import RUN_FILE, read_run_info
from metronorm.text import nearest, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metronorm.runs.summary import Summary

_FIELDS = {"created": "created_ns", "name": "name", "seconds": "seconds", "ticks": "ticks"}


def check_last(number: int) -> None:
    """Raise ConfigError if so many runs, the last ones, are none."""
    if number < 1:
        raise ConfigError("--last must be at least 1", got=str(number))


def newest(paths: Sequence[Path], number: int) -> list[Path]:
    """So many of the paths, those whose runs were created last, in the order given.

    Paths that are no run stay too, so that they are reported. A damaged run counts as created when
    its `run.json` was last changed.

    Raises:
        ConfigError: the number is not positive.
    """
    check_last(number)
    created = {path: at for path in paths if (at := _created_ns(path)) is not None}
    chosen = sorted(created, key=lambda path: created[path], reverse=True)[:number]
    return [path for path in dict.fromkeys(paths) if path in chosen or path not in created]


def _created_ns(path: Path) -> int | None:
    """When the run in a directory was created; None if it is no run."""
    try:
        return read_run_info(path).created_ns
    except RunError:
        try:
            return (path / RUN_FILE).stat().st_mtime_ns
        except OSError:
            return None


def in_order(summaries: Sequence[Summary], key: str) -> list[Summary]:
    """The summaries by a field or a metric; those that lack the metric come last.

    Args:
        summaries: of the runs.
        key: `created`, `name`, `seconds`, `ticks`, or the name of a metric, of which the best value
            comes first (the lowest last value if it is not known which is best); with "-" before
            it, the other way round.

    Raises:
        ConfigError: no run has such a metric.
    """
    backwards, name = key.startswith("-"), key.removeprefix("-")
    if name in _FIELDS:
        field = _FIELDS[name]
        return sorted(summaries, key=lambda one: getattr(one, field), reverse=backwards)
    metrics = {metric for one in summaries for metric in one.measures}
    if name not in metrics:
        near = nearest(name, [*_FIELDS, *metrics])
        known = ", ".join([*_FIELDS, *sorted(metrics)])
        raise ConfigError(
            "--sort takes created, name, seconds, ticks, or a measure of the runs",
            got=printable(key) or "nothing",
            fix=f"--sort={near}" if near else f"one of {printable(known)}",
        )
    ranked = [(one, _rank(one, name)) for one in summaries]
    comparable = [pair for pair in ranked if pair[1] is not None]
    comparable.sort(key=itemgetter(1), reverse=backwards)
    return [one for one, _ in comparable] + [one for one, rank in ranked if rank is None]


def _rank(summary: Summary, metric: str) -> float | None:
    """A number that is lower if the run is better; None if there is nothing to compare."""
    found = summary.measures.get(metric)
    value = None if found is None else found.last if found.best is None else found.best
    if value is None or math.isnan(value):
        return None
    return -value if better(metric, summary.config) == "higher" else value


def as_json(summaries: Sequence[Summary]) -> str:
    """A list with an object for each summary, without its curves.

    JSON has no NaN and no infinities: they are "nan", "inf" and "-inf", as on the tape.
    """
    records = [
        {
            field.name: _plain(msgspec.to_builtins(getattr(summary, field.name)))
            for field in dataclasses.fields(summary)
            if field.name not in ("curves", "tick_ns")
        }
        for summary in summaries
    ]
    return msgspec.json.format(msgspec.json.encode(records)).decode()


def _plain(value: Any) -> Any:
    """A value of JSON's types, with text in the place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
