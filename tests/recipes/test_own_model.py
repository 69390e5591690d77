"""The recipe of a net of one's own, on a part of the real images."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.cli import main
from metronorm.cli.recipe import load_recipe
from metronorm.data.images import fashion_mnist
from metronorm.runs import open_run

from ..data.idx_files import write
from ..real_data import needs_fashion_mnist
from ..train.acting import at_every_tick

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "own_model.py"
TICKS = 60

pytestmark = needs_fashion_mnist


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A training of seconds: 2,400 images, and 400 to test on; a narrow net."""
    whole = fashion_mnist()
    folder = write(
        tmp_path_factory.mktemp("images"),
        train_images=whole.images[:2400],
        train_labels=whole.labels[:2400],
        t10k_images=whole.test_images[:400],
        t10k_labels=whole.test_labels[:400],
    )
    chosen = {
        "folder": folder,
        "ticks": TICKS,
        "width": 8,
        "batch-size": 64,
        "evaluate-every": 20,
        "checkpoint-every": 20,
        "precision": "fp32",
        "allocator": "system",
        "device": "cpu",
    }
    return [str(word) for name, value in chosen.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `metronorm train --recipe`."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--recipe", str(SCRIPT), "--run", str(run), *options]) == 0
    return run


def history(run: Path) -> list[Any]:
    names = ("tick", "loss", "images", "validation_loss", "validation_accuracy", "test_accuracy")
    return [[row.get(name) for name in names] for row in open_run(run).ticks().rows()]


def test_it_learns(trained: Path) -> None:
    rows = open_run(trained).ticks().rows()
    assert rows[0]["loss"] == pytest.approx(np.log(10), rel=0.1), "it begins with a guess"
    assert np.mean([row["loss"] for row in rows[-10:]]) < 0.9
    assert [row["tick"] for row in rows if row["validation_loss"]] == [20, 40, 60]
    assert rows[-1]["validation_accuracy"] > 0.7
    assert rows[-1]["test_accuracy"] > 0.7


@pytest.mark.slow
def test_the_script_is_the_command(trained: Path, options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), "--run", str(run), *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert history(run) == history(trained)


def test_a_resumed_run_is_the_run(trained: Path, options: list[str], tmp_path: Path) -> None:
    def stop(tick: int) -> None:
        if tick == 33:
            os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    with at_every_tick(stop):
        command = ["train", "--recipe", str(SCRIPT), "--run", str(run), *options]
        assert main(command) == 128 + signal.SIGTERM
    assert newest_checkpoint(run / "checkpoints").tick == 33
    assert main(["train", "--resume", str(run)]) == 0
    assert history(run) == history(trained)


def test_half_of_the_images_are_mirrored() -> None:
    recipe = sys.modules[load_recipe(str(SCRIPT)).task.__module__]
    images = np.random.default_rng(1).integers(0, 256, (400, 5, 4)).astype(np.uint8)
    got, labels = recipe.mirrored((images.copy(), np.arange(400)), np.random.default_rng(2))
    same = (got == images).all((1, 2))
    assert (got[~same] == images[~same, :, ::-1]).all()
    assert 150 < same.sum() < 250
    assert (labels == np.arange(400)).all()


def test_bytes_are_scaled_to_mean_0_and_deviation_1() -> None:
    recipe = sys.modules[load_recipe(str(SCRIPT)).task.__module__]
    images = torch.from_numpy(fashion_mnist().images[:5000].copy())
    scaled = recipe.Scale()(images).double()
    assert scaled.shape == (5000, 1, 28, 28)
    assert abs(scaled.mean()) < 0.02
    assert abs(scaled.std() - 1) < 0.02
