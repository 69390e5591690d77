"""Rows of tokens of Shakespeare's plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.data.packages import installed

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plays(tokenizer: Any, count: int, length: int, works: int) -> NDArray[np.int32]:
    """int32 (count, length) tokens of the first works, from places at equal distances, shuffled."""
    files = installed("shakespeare", "_gut.txt")[:works]
    text = "\n".join(each.read_text(encoding="utf-8") for each in files)
    ids = np.array(tokenizer(text).input_ids, dtype=np.int32)
    starts = np.linspace(0, len(ids) - length, count).astype(int)
    order = np.random.default_rng(0).permutation(count)
    return np.stack([ids[start : start + length] for start in starts])[order]
