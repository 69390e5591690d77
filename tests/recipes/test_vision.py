"""The recipe of images: its parts beside equations, and both models on some of the images."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metronorm.cli import main
from metronorm.data.images import fashion_mnist
from metronorm.runs import open_run

from ..data.idx_files import write
from ..real_data import needs_fashion_mnist

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "vision.py"
sys.path.insert(0, str(ROOT / "recipes"))

import vision  # noqa: E402
from lib.gradients import ANGLES, CELL, accuracy_of_svm, baseline, histograms  # noqa: E402
from lib.pictures import Varied, as_picture, confusions, sheet, shifted  # noqa: E402

CHANCE = np.random.default_rng(0)
IMAGES = CHANCE.integers(1, 256, (50, 6, 8)).astype(np.uint8)


def mirrored(batch: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images are mirrored; each is one or the other."""
    plain = (batch == IMAGES[labels]).all((1, 2))
    turned = (batch == IMAGES[labels, :, ::-1]).all((1, 2))
    assert (plain ^ turned).all()
    return turned


def test_an_image_is_mirrored_in_every_other_epoch() -> None:
    order = Varied(IMAGES, np.arange(50), seed=3, shift=0)
    epochs = []
    for epoch in range(4):
        batch, labels = order.take(50 * epoch, 50)
        assert sorted(labels) == list(range(50))
        epochs.append(mirrored(batch, labels)[np.argsort(labels)])
    assert (epochs[0] == epochs[2]).all()
    assert (epochs[1] == epochs[3]).all()
    assert (epochs[0] ^ epochs[1]).all()
    assert 10 < epochs[0].sum() < 40


def test_a_batch_across_two_epochs_mirrors_by_the_epoch_of_each_image() -> None:
    order = Varied(IMAGES, np.arange(50), seed=3, shift=0)
    across, labels = order.take(40, 20)
    parts = [order.take(first, 10) for first in (40, 50)]
    assert (labels == np.concatenate([part[1] for part in parts])).all()
    assert (across == np.concatenate([part[0] for part in parts])).all()


def test_a_batch_depends_on_its_place_alone() -> None:
    one, other = (Varied(IMAGES, np.arange(50), seed=3, shift=2) for _ in range(2))
    one.take(0, 16)
    assert (one.take(16, 16)[0] == other.take(16, 16)[0]).all()
    assert (
        one.take(16, 16)[0] != Varied(IMAGES, np.arange(50), seed=4, shift=2).take(16, 16)[0]
    ).any()
    assert one.data_id == other.data_id
    assert one.examples_per_epoch == 50


def test_shifts_are_those_of_a_loop() -> None:
    places = CHANCE.integers(0, 5, (2, 50))
    found = shifted(IMAGES, places, 2)
    for image, got, up, left in zip(IMAGES, found, *(places - 2), strict=True):
        for row in range(6):
            for column in range(8):
                y, x = row + up, column + left
                inside = 0 <= y < 6 and 0 <= x < 8
                assert got[row, column] == (image[y, x] if inside else 0)


def test_confusions_are_counted() -> None:
    labels, answers = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 2])
    matrix, rows = confusions(labels, answers, ["a", "b", "c"])
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert rows[2] == {"class": "c", "a": 1, "b": 0, "c": 2}
    json.dumps(rows)
    picture = as_picture(matrix, scale=2)
    assert picture.shape == (6, 6)
    assert picture[1, 3] == pytest.approx(math.sqrt(1 / 2))
    assert as_picture(np.zeros((2, 2), np.int64)).max() == 0


def test_a_sheet_has_every_image_in_its_place() -> None:
    found = sheet(IMAGES[:5], columns=3, scale=1)
    assert found.shape == (2 * 7, 3 * 9)
    for place in range(5):
        row, column = divmod(place, 3)
        assert (found[7 * row :, 9 * column :][:6, :8] == IMAGES[place]).all()
    assert not found[7:, 18:].any()


def slow_histograms(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pixel by pixel, in float64."""
    height, width = image.shape
    pixels = image.astype(np.float64)
    cells = np.zeros((height // CELL, width // CELL, ANGLES))
    for y in range(height):
        for x in range(width):
            across = pixels[y, x + 1] - pixels[y, x - 1] if 0 < x < width - 1 else 0.0
            down = pixels[y + 1, x] - pixels[y - 1, x] if 0 < y < height - 1 else 0.0
            place = (math.degrees(math.atan2(down, across)) % 180) / (180 / ANGLES)
            for angle in range(ANGLES):
                near = abs(place - angle)
                near = min(near, ANGLES - near)  # 180 degrees are 0
                share = max(0.0, 1 - near)
                cells[y // CELL, x // CELL, angle] += share * math.hypot(across, down)
    found = []
    for y in range(height // CELL - 1):
        for x in range(width // CELL - 1):
            block = cells[y : y + 2, x : x + 2].ravel()
            block = np.minimum(block / math.sqrt((block**2).sum() + 1e-5), 0.2)
            found.extend(block / math.sqrt((block**2).sum() + 1e-5))
    return np.array(found)


def test_histograms_are_those_of_a_loop() -> None:
    images = CHANCE.integers(0, 256, (3, 12, 8)).astype(np.uint8)
    images[2] = 7  # without any gradient
    found = histograms(images)
    assert found.shape == (3, 2 * 1 * 4 * ANGLES)
    for image, got in zip(images, found, strict=True):
        np.testing.assert_allclose(got, slow_histograms(image), rtol=1e-4, atol=1e-5)


def test_a_baseline_without_its_data_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert baseline("vision", lambda: fashion_mnist(tmp_path), held_out=1) == 2
    told = capsys.readouterr().err
    assert told.startswith("vision: ")
    assert "dataset-fashion-mnist" in told


def part(images: int, tests: int) -> dict[str, Any]:
    whole = fashion_mnist()
    return {
        "train_images": whole.images[:images],
        "train_labels": whole.labels[:images],
        "t10k_images": whole.test_images[:tests],
        "t10k_labels": whole.test_labels[:tests],
    }


@needs_fashion_mnist
def test_the_baseline_learns(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    folder = write(tmp_path, **part(800, 300))
    assert accuracy_of_svm(fashion_mnist(folder), held_out=100) > 0.7


@needs_fashion_mnist
@pytest.mark.parametrize(
    ("model", "loss", "share"),
    [("convnext", 1.8, 0.5), pytest.param("vit", 1.65, 0.45, marks=pytest.mark.slow)],
)
def test_it_learns(model: str, loss: float, share: float, tmp_path: Path) -> None:
    options = {
        "folder": write(tmp_path, **part(2400, 200)),
        "run": tmp_path / "run",
        "model": model,
        "ticks": 60,
        "batch-size": 32,
        "evaluate-every": 60,
        "precision": "fp32",
        "allocator": "system",
        "device": "cpu",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["train", "--recipe", str(SCRIPT), *words]) == 0
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert rows[0]["loss"] == pytest.approx(math.log(10), rel=0.2), "it begins with a guess"
    assert np.mean([row["loss"] for row in rows[-5:]]) < loss
    last = rows[-1]
    assert last["validation_accuracy"] > share
    for name in ("accuracy", "flipped_accuracy", "loss", "accuracy_last"):
        assert {f"validation_{name}", f"test_{name}"} <= last.keys()
    row = vision.beside(tmp_path / "run", {"model": model, "norm": "layer"})
    assert 30 < row["megaflops"] < 50
    assert last["training_accuracy"] > share
    kinds = [(sample.name, sample.kind) for sample in run.samples()]
    assert kinds == [
        ("confusions", "table"),
        ("confusions", "picture"),
        ("told wrong", "picture"),
        ("told wrong", "table"),
    ]


def test_what_is_measured_is_counted() -> None:
    """A model that looks at the left half tells an image and its mirror image apart."""

    class Left(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = images[:, 0, :, :14].mean((1, 2))
            return torch.stack([bright, -bright, *[torch.full_like(bright, -9.0)] * 8], 1)

    images = torch.zeros(3, 28, 28, dtype=torch.uint8)
    images[0, :, :14] = 255
    images[1, :, 14:] = 200
    found = vision.measure(Left(), (images, torch.tensor([0, 0, 1])))
    assert found["accuracy"] == 2
    assert found["flipped_accuracy"] == 3, "together with their mirror images all are right"
    chances = vision.chances(Left(), images)
    assert torch.allclose(chances.sum(1), torch.ones(3))
    assert torch.allclose(chances, vision.chances(Left(), images.flip(2)))


def test_every_net_is_small() -> None:
    for options in ({}, {"norm": "batch"}, {"norm": "none"}, {"model": "vit"}):
        net = vision.net(vision.Config(**options))
        assert sum(each.numel() for each in net.parameters()) < 1_000_000
        assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
