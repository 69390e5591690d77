from pathlib import Path

import numpy as np
import pytest

from metronorm.data import packages
from metronorm.data.images import fashion_mnist
from metronorm.errors import DataError

from ..real_data import needs_fashion_mnist
from .idx_files import IMAGES, LABELS, write


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["", "usr/share/datasets/fashion-mnist"])
def test_the_files_are_found_and_read(tmp_path: Path, inside: str, packed: bool) -> None:
    write(tmp_path / inside, packed=packed)
    found = fashion_mnist(tmp_path)
    expected = (IMAGES, LABELS, IMAGES[:2], LABELS[:2])
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_without_a_folder_the_files_of_the_package_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "PACKAGES", tmp_path)
    write(tmp_path / "usr/share/datasets/fashion-mnist")
    assert len(fashion_mnist().images) == 6


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    write(tmp_path, t10k_labels=None)
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte in .* or .*dpkg -x"):
        fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    "instead",
    [
        {"train_labels": LABELS[:5]},
        {"train_labels": LABELS + np.uint8(1)},  # a class too many
        {"train_labels": LABELS.astype(">i4")},
        {"train_images": IMAGES.astype(">f4")},
        {"train_images": IMAGES.reshape(6, 12)},
        {"train_images": IMAGES[:0], "train_labels": LABELS[:0]},
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(
    tmp_path: Path, instead: dict[str, np.ndarray]
) -> None:
    with pytest.raises(DataError, match=r"a label below 10 for each image.*train-labels-idx1"):
        fashion_mnist(write(tmp_path, **instead))


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"have the same size; got \(3, 4\) and \(3, 3\)"):
        fashion_mnist(write(tmp_path, t10k_images=IMAGES[:2, :, :3]))


@needs_fashion_mnist
def test_the_sizes_in_the_docstring_are_those_of_the_package() -> None:
    found = fashion_mnist()
    assert found.images.shape == (60_000, 28, 28)
    assert found.test_images.shape == (10_000, 28, 28)
    assert np.bincount(found.labels).tolist() == [6_000] * 10
    assert np.bincount(found.test_labels).tolist() == [1_000] * 10
