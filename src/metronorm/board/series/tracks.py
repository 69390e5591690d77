"""A metric over the ticks of a history, prepared to be cut into pixels again and again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from metronorm.board.series._arrays import Floats, Growing, Integers, is_missing
from metronorm.board.series.levels import Levels


class Track:
    """The logged values of a metric; it grows at its end.

    A *point* is a logged value, also one that an axis cannot show. `bad` are the points that are
    not finite, `finite` the values of all others, and `levels` are over these.

    Args:
        positive: for a log axis: 0 and less are among the bad, too.
    """

    def __init__(self, *, positive: bool = False) -> None:
        self._positive = positive
        self.levels = Levels()
        self._done = 0  # rows that were taken in
        self._column: Floats = np.empty(0)
        self._rows: Growing | None = None  # None: every row is a point
        self._values: Growing | None = None  # the values of the points; None: the column
        self._finite: Growing | None = None  # None: the values of the points
        self._bad = Growing(np.empty(0, np.int64))

    def extend(self, column: Floats) -> None:
        """Take in the rows at the end that are new.

        Args:
            column: all rows; what was there before must be the same.
        """
        new = column[self._done :]
        logged = ~is_missing(new)
        if self._rows is None and not logged.all():
            self._rows = Growing(np.arange(self._done))
            self._values = Growing(self._column)
        points = len(self)
        if self._rows is not None and self._values is not None:
            self._rows.append(self._done + np.flatnonzero(logged))
            new = new[logged]
            self._values.append(new)
        good = np.isfinite(new)
        if self._positive:
            good &= new > 0
        if self._finite is None and not good.all():
            self._finite = Growing(self.values[:points] if points else np.empty(0))
        if self._finite is not None:
            self._finite.append(new[good])
            self._bad.append(points + np.flatnonzero(~good))
        self._column, self._done = column, len(column)

    def __len__(self) -> int:
        return self._done if self._rows is None else len(self._rows)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes beside the column."""
        held = (self._rows, self._values, self._finite, self._bad)
        return self.levels.nbytes + sum(each.nbytes for each in held if each is not None)

    @property
    def values(self) -> Floats:
        """The value of each point."""
        return self._column if self._values is None else self._values.array

    @property
    def finite(self) -> Floats:
        """The finite values."""
        return self.values if self._finite is None else self._finite.array

    @property
    def bad(self) -> Integers:
        """The points that are not finite, in order."""
        return self._bad.array

    def value(self) -> Value | None:
        """What the values come to; None without any."""
        if not len(self):
            return None
        finite, bad = self.finite, self.values[self.bad]
        low = high = None
        if len(finite):
            (low,), (high,) = self.levels.extremes(finite, np.array([0]), np.array([len(finite)]))
            low, high = float(low), float(high)
        nan = int(np.isnan(bad).sum())
        return Value(float(self.values[-1]), low, high, nan, len(bad) - nan)

    def points(self, axis: Floats) -> Points:
        """The points on an axis that has a value for each row."""
        x = axis[: self._done] if self._rows is None else axis[self._rows.array]
        return Points(x, self.bad, self.values[self.bad], self.finite, self.levels)


class Value(NamedTuple):
    """The last of some values, their lowest and highest finite one, and how many are not finite."""

    last: float
    low: float | None
    high: float | None
    nan: int
    infinite: int


class Points(NamedTuple):
    """The points of a line, in ascending order of `x`.

    `bad` are the numbers of those points that the axis cannot show, and `bad_values` their values
    (NaN, infinite, on a log axis also 0 and less); `finite` are the values of all others, and
    `levels` are over these.
    """

    x: Floats
    bad: Integers
    bad_values: Floats
    finite: Floats
    levels: Levels

    def finite_before(self, points: Integers) -> Integers:
        """How many of the points before each of these are finite."""
        return points - np.searchsorted(self.bad, points)

    def finite_point(self, number: int) -> int:
        """The number of the point that is finite for the `number`-th time, counted from 0."""
        # as many bad points come before it as have at most so many finite ones before them
        before = self.bad - np.arange(len(self.bad))
        return number + int(np.searchsorted(before, number, "right"))
