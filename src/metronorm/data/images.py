"""Read labelled images: Fashion-MNIST, or another set in the same four idx files.

Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747) has 60,000 + 10,000 grey images of
28 x 28 pixels in 10 classes of equal size. Debian has a package of it; nothing is downloaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.data.idx import read_idx
from metronorm.data.packages import debian_folder
from metronorm.errors import DataError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

CLASSES = 10

_PACKAGE, _FOLDER = "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"  # of Debian


class LabelledImages(NamedTuple):
    """Images, uint8 (examples, height, width), and their labels, uint8 (examples,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> LabelledImages:
    """Read Fashion-MNIST, from files that may be compressed by gzip.

    Args:
        folder: a folder with the four idx files, or a folder in which Debian's package was
            unpacked; None: the folder of the installed package.

    Returns:
        The arrays, read-only.

    Raises:
        MissingDependencyError: no folder is given, and the package is not installed.
        DataError: a file is missing or damaged, or the files do not fit each other.
    """
    if folder is None:
        folders = [debian_folder(_PACKAGE, _FOLDER)]
    else:
        folders = [Path(folder), Path(folder) / _FOLDER]
    train, test = _read_part(folders, "train"), _read_part(folders, "t10k")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            "training and test images must have the same size",
            got=f"{train[0].shape[1:]} and {test[0].shape[1:]}",
        )
    return LabelledImages(*train, *test)


def _read_part(folders: list[Path], part: str) -> tuple[NDArray[Any], NDArray[Any]]:
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
            f"the files must have images of bytes, and a label below {CLASSES} for each image",
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
        "the files of Fashion-MNIST must exist",
        got=f"no {name} in {' or '.join(map(str, folders))}",
        fix="apt-get install dataset-fashion-mnist; or apt-get download dataset-fashion-mnist && "
        "dpkg -x dataset-fashion-mnist_*.deb DIR, and pass DIR as the folder",
    )
