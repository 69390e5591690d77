"""Documents that are nearly the same as an earlier one, found by MinHash.

Two documents are compared by the runs of five words that they have: the share of runs in both among
those in either (Jaccard's index). Locality-sensitive hashing of MinHash signatures (Broder, 1997)
finds pairs that may be near each other; the index of these is then computed from their texts. So
nothing is left out that is not as near as was asked; a pair just above the threshold may be missed
(the chance is 1 in 1,000 at the threshold, and falls with the distance from it).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.data.progress import progress
from metronorm.errors import MissingDependencyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from metronorm.data.rows import Rows

NEAR_COPIES = "near copies of other documents"

_WORDS = 5
_WORD = re.compile(r"\w+")
_PERMUTATIONS = 128
_MISSED = 1e-3
_BATCH = 256


def near_copies(rows: Rows, among: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Which documents are nearly the same as an earlier one that is kept.

    Args:
        rows: the documents.
        among: those to look at, int64, in the order of who is kept.
        threshold: the least share of runs of five words that two documents have in common, above 0
            and at most 1.

    Raises:
        MissingDependencyError: the package `rensa` is not installed.
    """
    library: Any = _library()
    index = library.RMinHashLSH(threshold, _PERMUTATIONS, bands_for(threshold))
    dropped = []
    total = int(rows.sizes[among].sum())
    with open(rows.path, "rb") as file, progress("looking for near copies", total) as advance:

        def runs_of(row: int) -> set[str]:
            file.seek(rows.starts[row])
            return word_runs(file.read(int(rows.sizes[row])).decode())

        for first in range(0, len(among), _BATCH):
            batch = among[first : first + _BATCH].tolist()
            runs = [runs_of(row) for row in batch]
            signatures = library.RMinHash.from_token_sets(
                [list(each) for each in runs], num_perm=_PERMUTATIONS, seed=1
            )
            for row, own, signature in zip(batch, runs, signatures, strict=True):
                near = (jaccard(own, runs_of(other)) for other in index.query(signature))
                if any(each >= threshold for each in near):
                    dropped.append(row)
                else:
                    index.insert(row, signature)
                advance(int(rows.sizes[row]))
    return np.array(dropped, dtype=np.int64)


def word_runs(text: str) -> set[str]:
    """All runs of five words in a text, whatever is between them; of a shorter one, all its words.

    A text without words is compared as it is.
    """
    words = _WORD.findall(text.casefold())
    if not words:
        return {text}
    return {" ".join(words[at : at + _WORDS]) for at in range(max(1, len(words) - _WORDS + 1))}


def jaccard(first: set[str], second: set[str]) -> float:
    """The share of what two sets have in common, among what is in either."""
    both = len(first & second)
    return both / (len(first) + len(second) - both)


def bands_for(threshold: float) -> int:
    """The fewest bands of a signature with which a pair at the threshold is hardly missed.

    Two signatures of 128 numbers agree in a band of r numbers with the chance threshold**r.
    """
    for bands in (1, 2, 4, 8, 16, 32, 64):
        if (1 - threshold ** (_PERMUTATIONS // bands)) ** bands <= _MISSED:
            return bands
    return _PERMUTATIONS


def _library() -> Any:
    try:
        import rensa
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "near copies are found with the package 'rensa'",
            got="no such package",
            fix="pip install 'metronorm[text]'",
        ) from None
    return rensa
