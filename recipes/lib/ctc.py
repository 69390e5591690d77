"""Decoding of CTC: from probabilities by frame to symbols (Graves et al., 2006). Blank is 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BLANK = 0
NEVER = -math.inf


class Spike(NamedTuple):
    """A symbol, and the frames of the greedy path that have it, from `first` to before `end`."""

    symbol: int
    first: int
    end: int


def spikes(log_probabilities: NDArray[np.floating]) -> list[Spike]:
    """The likeliest symbol of every frame, with repeats as one and blanks left out.

    Args:
        log_probabilities: (time, symbols).
    """
    best = log_probabilities.argmax(axis=1)
    begins = np.flatnonzero(np.diff(best, prepend=-1))
    ends = [*begins[1:].tolist(), len(best)][: len(begins)]
    return [
        Spike(int(best[begin]), int(begin), end)
        for begin, end in zip(begins, ends, strict=True)
        if best[begin] != BLANK
    ]


def greedy(log_probabilities: NDArray[np.floating]) -> list[int]:
    """The symbols of the likeliest path."""
    return [spike.symbol for spike in spikes(log_probabilities)]


def prefix_beam(
    log_probabilities: NDArray[np.floating],
    *,
    width: int = 16,
    score: Callable[[tuple[int, ...], int], float] | None = None,
    weight: float = 0.5,
    bonus: float = 0.0,
    least: float = -9.0,
) -> tuple[list[int], float]:
    """The likeliest symbols, over all paths that give them (Hannun et al., 2014, arXiv:1408.2873).

    Args:
        log_probabilities: (time, symbols), natural logarithms.
        width: prefixes that are kept after each frame; with all of them the result is exact.
        score: natural logarithm of a symbol's probability after a prefix, by a language model.
        weight: of that.
        bonus: for each symbol, against a language model's love of short texts.
        least: symbols of a frame below it are not tried.

    Returns:
        The symbols, and their logarithm: of the probability, with `score` and `bonus` added.
    """
    # of each prefix: the paths that end in a blank, those that do not, and what is added to both
    beam: dict[tuple[int, ...], tuple[float, float, float]] = {(): (0.0, NEVER, 0.0)}
    for frame in np.asarray(log_probabilities, dtype=np.float64):
        tried = [symbol for symbol in np.flatnonzero(frame >= least).tolist() if symbol != BLANK]
        blank, values = float(frame[BLANK]), frame.tolist()
        grown: dict[tuple[int, ...], list[float]] = {}

        def reach(
            prefix: tuple[int, ...],
            place: int,
            value: float,
            added: float,
            grown: dict[tuple[int, ...], list[float]] = grown,
        ) -> None:
            entry = grown.setdefault(prefix, [NEVER, NEVER, added])
            entry[place] = log_add(entry[place], value)

        for prefix, (ended, open_, added) in beam.items():
            either = log_add(ended, open_)
            reach(prefix, 0, either + blank, added)
            if prefix:
                reach(prefix, 1, open_ + values[prefix[-1]], added)
            for symbol in tried:
                # a symbol comes twice in a row only with a blank in between
                value = ended if prefix and prefix[-1] == symbol else either
                if value == NEVER:
                    continue
                longer = (*prefix, symbol)
                known = grown.get(longer) or beam.get(longer)
                if known is not None:
                    total = known[2]
                else:
                    total = added + bonus + (weight * score(prefix, symbol) if score else 0.0)
                reach(longer, 1, value + values[symbol], total)
        kept = sorted(grown.items(), key=_worth, reverse=True)[:width]
        beam = {prefix: (entry[0], entry[1], entry[2]) for prefix, entry in kept}
    best, entry = max(beam.items(), key=_worth)
    return list(best), _worth((best, entry))


def _worth(item: tuple[tuple[int, ...], list[float] | tuple[float, float, float]]) -> float:
    _, (ended, open_, added) = item
    return log_add(ended, open_) + added


def log_add(a: float, b: float) -> float:
    """The logarithm of the sum of two numbers that are given by theirs."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
