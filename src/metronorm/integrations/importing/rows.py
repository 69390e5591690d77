"""Rows of values as other trackers keep them: nested dicts, and NaN and infinities as text."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

from metronorm.integrations.importing.history import Event, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.integrations.importing.writing import Imported

_SPELLED = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}
_UNKNOWN = -1  # a time that is not known yet
_DEEPEST = 50


class Rows:
    """Collects the rows of one run, and gives them to its history, one stretch at a time."""

    def __init__(self, run: Imported) -> None:
        self._run = run
        self._values: list[Value] = []
        self._events: list[Event] = []
        self._first = self._before = _UNKNOWN  # times of the first row and of the last one
        self._left_out: Counter[str] = Counter()

    def add(self, step: int, time_ns: int | None, row: dict[str, Any]) -> None:
        """Add one row: numbers become values, histograms and texts events; the rest is counted.

        Args:
            step: the row's step.
            time_ns: nanoseconds since 1970; None: the time of the row before.
            row: values by name, nested or not.
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
        """End a stretch: rows that follow were logged by another process."""
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
        """End the last stretch, and make the notice about what was left out."""
        self.end_stretch()
        if self._left_out:
            name, count = self._left_out.most_common(1)[0]
            self._run.notices.append(
                "values left out that are neither numbers nor texts: "
                f"{self._left_out.total():,}, {count:,} of them of {name!r}"
            )


def flatten(row: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield names and values. Names in nested dicts have dots between; histograms stay dicts.

    Args:
        row: values by name.
        prefix: the beginning of all names.
        depth: the number of dicts around this one; beyond 50 a dict is not a value.
    """
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
    """A value that no record can hold: an image, a table, or what is nested too deeply."""


def _as_float(value: int | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf
    except ValueError:  # a signalling NaN
        return nan


def histogram_of(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the edges and counts of a histogram of W&B or trackio; None if it is not one.

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
    """Return the numbers of a row, by name."""
    return {name: value for name, value in flatten(row) if isinstance(value, float)}
