"""Rows of values as other trackers keep them: dicts, nested ones, numbers spelled as text."""

from __future__ import annotations

import re
from collections import Counter
from math import inf, nan
from typing import TYPE_CHECKING, Any

from metronorm.integrations.importing.history import Event, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.integrations.importing.writing import Imported

_SPELLED = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}


class Rows:
    """Takes the rows of one run; `finish` hands them over, a stretch at a time."""

    def __init__(self, run: Imported) -> None:
        self._run = run
        self._values: list[Value] = []
        self._left_out: Counter[str] = Counter()

    def add(self, step: int, time_ns: int, row: dict[str, Any]) -> None:
        """One row: its numbers are values, its histograms events; the rest is counted."""
        for name, value in flatten(row):
            if type(value) is float:
                self._values.append((step, time_ns, name, value))
            elif isinstance(value, dict):
                fields = {"tag": name, "step": step, "edges": value["bins"]}
                fields["counts"] = value["values"]
                self._run.events.append(Event("histogram", time_ns, fields))
            elif value is not None:
                self._left_out[name] += 1

    def end_stretch(self) -> None:
        """What comes now was logged by another process."""
        self._run.history.extend(self._values)
        self._values = []

    def finish(self) -> None:
        """All rows were added."""
        self.end_stretch()
        if self._left_out:
            name, count = self._left_out.most_common(1)[0]
            self._run.notices.append(
                f"values left out that are no numbers: {self._left_out.total():,}, "
                f"{count:,} of them of {name!r}"
            )


def flatten(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; nested dicts with dots between the names, histograms as dicts."""
    for key, value in row.items():
        if type(value) is float:
            yield prefix + key, value
        elif isinstance(value, dict):
            if str(value.get("_type", "")).endswith("histogram") and "bins" in value:
                yield prefix + key, value
            elif "_type" in value:  # an image, a table
                yield prefix + key, value["_type"]
            else:
                yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, int):
            yield prefix + key, _as_float(value)
        else:
            yield prefix + key, _SPELLED.get(value, value) if isinstance(value, str) else value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


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
