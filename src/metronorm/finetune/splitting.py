"""Choose the rows to hold out, so that copies of a row are never on both sides."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from metronorm.data.shuffled import mix

if TYPE_CHECKING:
    from numpy.typing import NDArray


def content_key(*texts: str) -> int:
    """64 bits of a hash of texts; line ends and space around a text do not count."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        content = text.replace("\r\n", "\n").strip().encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8))
        digest.update(content)
    return int.from_bytes(digest.digest())


def held_out(
    keys: NDArray[np.uint64], share: float, seed: int, classes: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Which rows to hold out.

    The choice depends on the contents and the seed alone, not on the order of the rows. Of every
    class the same share is held out, and never all of it.

    Args:
        keys: uint64 (rows,), of the contents: rows with one key are on one side.
        share: of the different contents to hold out, from 0 to 1. If it is above 0, at least one is
            held out, where there are two.
        seed: of the choice.
        classes: int64 (rows,), the number of each one's class; None: there is one class.

    Returns:
        bool (rows,).
    """
    contents, first, content_of = np.unique(keys, return_index=True, return_inverse=True)
    if not share or len(contents) < 2:
        return np.zeros(len(keys), dtype=np.bool_)
    class_of = np.zeros(len(contents), dtype=np.int64) if classes is None else classes[first]
    rank = mix(contents ^ mix(np.uint64(seed % 2**64)))
    order = np.lexsort((rank, class_of))
    sizes = np.bincount(class_of)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = np.minimum(np.round(share * sizes).astype(np.int64), np.maximum(sizes - 1, 0))
    if not wanted.any():
        wanted[np.argmax(sizes)] = sizes.max() > 1
    chosen = np.zeros(len(contents), dtype=np.bool_)
    chosen[order] = place < wanted[class_of[order]]
    return chosen[content_of]
