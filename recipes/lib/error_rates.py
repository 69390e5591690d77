"""How far a transcript is from what was said: edits over the length of what was said."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def edits(wanted: Sequence[object], got: Sequence[object]) -> int:
    """The least number of insertions, deletions and substitutions from one to the other."""
    before = list(range(len(got) + 1))
    for place, each in enumerate(wanted, 1):
        row = [place]
        for column, other in enumerate(got, 1):
            row.append(min(before[column] + 1, row[-1] + 1, before[column - 1] + (each != other)))
        before = row
    return before[-1]


def without_diacritics(text: str) -> str:
    """The text with the letters that are under its accents."""
    apart = unicodedata.normalize("NFD", text)
    return "".join(each for each in apart if not unicodedata.combining(each))


def counts(wanted: str, got: str) -> dict[str, tuple[int, int]]:
    """Edits, and of how many, by name of the rate.

    `cer` counts characters, spaces too; `plain_cer` does without diacritics; `wer` counts words.
    """
    plain = without_diacritics(wanted)
    words = wanted.split()
    return {
        "cer": (edits(wanted, got), len(wanted)),
        "plain_cer": (edits(plain, without_diacritics(got)), len(plain)),
        "wer": (edits(words, got.split()), len(words)),
    }


def rate(pairs: Sequence[tuple[int, int]], *, samples: int = 1000) -> tuple[float, float, float]:
    """Edits over lengths, summed over all lines, and 95 % of it by a bootstrap over lines."""
    table = np.array(pairs, dtype=np.float64)  # (lines, 2)
    drawn = np.random.default_rng(0).integers(len(table), size=(samples, len(table)))
    sums = table[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(table[:, 0].sum() / table[:, 1].sum()), float(low), float(high)
