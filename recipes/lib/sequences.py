"""Sequences of what users have chosen, cut into windows: rows of items, each with the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from metronorm.data.interactions import Interactions

    Numbers = NDArray[np.int64]

IGNORED = -100  # as a target: not counted


class Rows(NamedTuple):
    """What a model sees, and what comes next.

    Attributes:
        chosen: items, (rows, length); 0 behind the end of a sequence.
        targets: the item after each of them, (rows, length); -100 where none is counted.
    """

    chosen: Numbers
    targets: Numbers


class Windows:
    """Windows to train on: a user's items but the last two, each a target after those before it.

    Args:
        data: who chose what.
        length: of a window.

    Attributes:
        users: whose a window is, (windows,).
        ends: the place of its last target among the user's items, (windows,).
    """

    def __init__(self, data: Interactions, length: int) -> None:
        self._items, self._length = data.histories(without=2), length
        spans = zip(data.starts[:-1].tolist(), data.starts[1:].tolist(), strict=True)
        self._times = [data.times[start : end - 2] for start, end in spans]
        places = [
            (user, end)
            for user, items in enumerate(self._items)
            for end in range(len(items) - 1, 0, -length)
        ]
        self.users, self.ends = np.array(places, np.int64).T

    def rows(self, windows: Any, chance: np.random.Generator) -> Rows:
        """The rows of windows, (users, ends): each moved a little, and with chance among equals.

        Items of one second have no order. The file's would be learned by heart, so each time they
        get one by chance. A window's place among the user's items moves by up to half its length.
        """
        users, ends = windows
        shape = len(users), self._length
        rows = Rows(np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64))
        half = self._length // 2
        for row, (user, end) in enumerate(zip(users.tolist(), ends.tolist(), strict=True)):
            last = len(self._items[user]) - 1
            end = min(last, max(end + int(chance.integers(-half, half + 1)), self._length))
            place = slice(max(0, end - self._length), end + 1)
            items, times = self._items[user][place], self._times[user][place]
            items = items[np.lexsort((chance.random(len(items)), times))]
            rows.chosen[row, : len(items) - 1] = items[:-1]
            rows.targets[row, : len(items) - 1] = items[1:]
        return rows


class Held(NamedTuple):
    """One item of each user to find.

    Attributes:
        chosen: what the user chose before it, the newest `length`, (users, length); 0 behind them.
        targets: that item, at the place of the last one that was chosen; else -100.
        seen: bool (users, items), all that the user chose before it.
    """

    chosen: Numbers
    targets: Numbers
    seen: NDArray[np.bool_]


def held_out(data: Interactions, length: int, *, without: int) -> Held:
    """The item that each user chose after a history.

    Args:
        data: who chose what.
        length: of the history that a model sees.
        without: how many of a user's last items are not in the history: 1 to test, 2 to validate.
    """
    histories, longer = data.histories(without=without), data.histories(without=without - 1)
    shape = len(histories), length
    held = Held(
        np.zeros(shape, np.int64),
        np.full(shape, IGNORED, np.int64),
        np.zeros((len(histories), len(data.titles)), np.bool_),
    )
    for user, (history, one_more) in enumerate(zip(histories, longer, strict=True)):
        newest = history[-length:]
        held.chosen[user, : len(newest)] = newest
        held.targets[user, len(newest) - 1] = one_more[-1]
        held.seen[user, history] = True
    return held
