"""Labelled images: Fashion-MNIST, or any set in the same four idx files.

Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747) has 60,000 + 10,000 grey images of
28 x 28 pixels in 10 classes of equal size. Debian packages it; nothing is downloaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.data.idx import read_idx
from metronorm.errors import DataError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

CLASSES = 10

_PLACE = Path("usr/share/datasets/fashion-mnist")  # of Debian's package
_ROOT = Path("/")


class LabelledImages(NamedTuple):
    """Images, uint8 (examples, height, width), and their labels, uint8 (examples,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> LabelledImages:
    """Fashion-MNIST, from files packed by gzip or not.

    Args:
        folder: that holds the four idx files, or that Debian's package was unpacked into; None:
            where the package is installed.

    Returns:
        The arrays, read-only.

    Raises:
        DataError: files that are not there, are damaged, or do not fit each other.
    """
    given = _ROOT if folder is None else Path(folder)
    folders = [given / _PLACE] if folder is None else [given, given / _PLACE]
    train, test = _labelled(folders, "train"), _labelled(folders, "t10k")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            "training and test images must be of one size",
            got=f"{train[0].shape[1:]} and {test[0].shape[1:]}",
        )
    return LabelledImages(*train, *test)


def _labelled(folders: list[Path], part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    paths = [_find(folders, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    images, labels = map(read_idx, paths)
    if (
        not images.dtype == labels.dtype == np.uint8
        or (images.ndim, labels.ndim) != (3, 1)
        or len(images) != len(labels)
        or not images.size
        or labels.max() >= CLASSES
    ):
        largest = labels.max() if labels.size else "none"
        raise DataError(
            f"there must be images of bytes, and a label below {CLASSES} for each",
            got=f"{images.shape} {images.dtype} in {paths[0]}, {labels.shape} {labels.dtype} up to "
            f"{largest} in {paths[1].name}",
        )
    return images, labels


def _find(folders: list[Path], name: str) -> Path:
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    raise DataError(
        "Fashion-MNIST must be there",
        got=f"no {name} in {' or '.join(map(str, folders))}",
        fix="apt-get install dataset-fashion-mnist; or apt-get download dataset-fashion-mnist && "
        "dpkg -x dataset-fashion-mnist_*.deb DIR, and give DIR",
    )
