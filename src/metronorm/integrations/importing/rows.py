"""Rows of values as other trackers keep them: dicts, nested ones, numbers spelled as text."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

from metronorm.integrations.importing.history import Event, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.integrations.importing.writing import Imported

_SPELLED = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}
_UNKNOWN = -1
_DEEPEST = 50


class Rows:
    """Takes the rows of one run; `finish` hands them over, a stretch at a time."""

    def __init__(self, run: Imported) -> None:
        self._run = run
        self._values: list[Value] = []
        self._events: list[Event] = []
        self._first = self._before = _UNKNOWN  # times of the first row and of the one before
        self._left_out: Counter[str] = Counter()

    def add(self, step: int, time_ns: int | None, row: dict[str, Any]) -> None:
        """One row: its numbers are values, its histograms and texts events; the rest is counted.

        Without a time it has that of the row before.
        """
        if time_ns is not None:
            self._first = time_ns if self._first == _UNKNOWN else self._first
            self._before = time_ns
        moment = self._before
        for name, value in flatten(row):
            if type(value) is float:
                self._values.append((step, moment, name, value))
            elif isinstance(value, str):
                self._events.append(
                    Event("text", moment, {"tag": name, "step": step, "text": value})
                )
            elif isinstance(value, dict) and (buckets := histogram_of(value)) is not None:
                fields = {"tag": name, "step": step} | buckets
                self._events.append(Event("histogram", moment, fields))
            elif value is not None:
                self._left_out[name] += 1

    def end_stretch(self) -> None:
        """What comes now was logged by another process."""
        first = max(self._first, 0)
        self._run.history.extend(
            (step, first if time_ns == _UNKNOWN else time_ns, name, value)
            for step, time_ns, name, value in self._values
        )
        for event in self._events:
            event.time_ns = first if event.time_ns == _UNKNOWN else event.time_ns
        self._run.events += self._events
        self._values, self._events = [], []

    def finish(self) -> None:
        """All rows were added."""
        self.end_stretch()
        if self._left_out:
            name, count = self._left_out.most_common(1)[0]
            self._run.notices.append(
                "values left out that are neither numbers nor text: "
                f"{self._left_out.total():,}, {count:,} of them of {name!r}"
            )


def flatten(row: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Names and values; nested dicts with dots between the names, histograms as dicts."""
    for key, value in row.items():
        name = f"{prefix}{key}"
        if type(value) is float:
            yield name, value
        elif isinstance(value, dict):
            if str(value.get("_type", "")).endswith("histogram"):
                yield name, value
            elif "_type" in value or depth == _DEEPEST:
                yield name, _Medium()
            else:
                yield from flatten(value, f"{name}.", depth + 1)
        elif isinstance(value, int | Decimal):
            yield name, _as_float(value)
        else:
            yield name, _SPELLED.get(value, value) if isinstance(value, str) else value


class _Medium:
    """An image, a table, or what is nested too deeply: no record holds it."""


def _as_float(value: int | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf
    except ValueError:  # a signalling NaN
        return nan


def histogram_of(value: dict[str, Any]) -> dict[str, Any] | None:
    """Edges and counts of W&B's and trackio's histograms; None if it is none.

    W&B's service packs buckets of equal width: it gives the lowest edge and the width.
    """
    packed: Any = value.get("packedBins")
    counts: Any = value.get("values")
    edges: Any = value.get("bins")
    try:
        if edges is None and packed is not None:
            edges = [packed["min"] + packed["size"] * at for at in range(len(counts) + 1)]
        if len(edges) == len(counts) + 1 and all(map(isfinite, [*edges, *counts])):
            return {"edges": list(edges), "counts": list(counts)}
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    return None


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """Only the numbers of a row."""
    return {name: value for name, value in flatten(row) if isinstance(value, float)}


def folder_names(names: list[str]) -> list[str]:
    """Names of directories for runs of these names: plain, and no two the same."""
    taken: set[str] = set()
    made = []
    for name in names:
        plain = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "run"
        number, free = 1, plain
        while free.lower() in taken:
            number += 1
            free = f"{plain}-{number}"
        taken.add(free.lower())
        made.append(free)
    return made
