"""Idx files, and sets of labelled images in them."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

from metronorm.data.idx import TYPES

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 3, 4, 9], dtype=np.uint8)


def idx(values: Any) -> bytes:
    """The bytes of an idx file, put together from the format's description."""
    code = next(code for code, name in TYPES.items() if np.dtype(name) == values.dtype)
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape) + (
        values.tobytes()
    )


def write(folder: Path, *, packed: bool = False, **instead: np.ndarray | None) -> Path:
    """The four files; `instead` has other content for some of them, None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "train_images": IMAGES,
        "train_labels": LABELS,
        "t10k_images": IMAGES[:2],
        "t10k_labels": LABELS[:2],
    } | instead
    for name, values in contents.items():
        part, _, kind = name.partition("_")
        path = folder / f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
        if values is not None and packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(values)))
        elif values is not None:
            path.write_bytes(idx(values))
    return folder
