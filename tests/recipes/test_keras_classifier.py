"""The recipe as it is run, on a small set of images of the real format; Keras on TensorFlow.

Keras has one backend in a process, and that of the tests may be another, so the trainings have a
process of their own. The models are also looked at here, on whatever backend there is.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import torch

from metronorm.cli import main as command
from metronorm.errors import ConfigError, DataError, RunError
from metronorm.runs import open_run

from ..data.idx_files import write
from ..real_data import needs_fashion_mnist

SCRIPT = Path(__file__).parents[2] / "recipes" / "keras_classifier.py"
VARIANTS = ["without", "metronorm", "keras", "formula", "torch"]
BATCH = 25  # 8 ticks an epoch

tf = pytest.importorskip("tensorflow", reason="the recipe needs TensorFlow")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("keras_classifier", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, (count, 5, 5), of ten classes that can be told apart, with noise."""
    random = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).integers(0, 200, (10, 5, 5))
    labels = np.arange(count) % 10
    noisy = patterns[labels] + random.integers(0, 50, (count, 5, 5))
    return noisy.astype(np.uint8), labels.astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train, test = images(200, 1), images(50, 2)
    return write(
        tmp_path_factory.mktemp("data"),
        packed=True,
        train_images=train[0],
        train_labels=train[1],
        t10k_images=test[0],
        t10k_labels=test[1],
    )


def run(*arguments: object) -> str:
    """What the script prints."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All variants, eight epochs; `runs` is the folder and `printed` the output."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    options = {"epochs": 8, "seeds": 1, "batch-size": BATCH, "data": data, "runs": runs}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return SimpleNamespace(runs=runs, printed=run(*words))


def rows(trained: SimpleNamespace, variant: str) -> list[dict[str, Any]]:
    return open_run(trained.runs / f"{variant}-0").ticks().rows()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tick_has_its_time_and_the_loss_and_accuracy_of_its_batch(
    trained: SimpleNamespace, variant: str
) -> None:
    ticks = rows(trained, variant)
    assert [tick["tick"] for tick in ticks] == list(range(1, 65))
    assert [tick["epoch"] for tick in ticks] == [epoch for epoch in range(8) for _ in range(8)]
    assert all(tick["wall_ns"] > 0 and tick["loss"] > 0 for tick in ticks)
    hits = np.array([tick["accuracy"] * BATCH for tick in ticks])  # no mean over the epoch
    np.testing.assert_allclose(hits, hits.round(), atol=1e-4)
    tested = [tick["tick"] for tick in ticks if tick["val_accuracy"] is not None]
    assert tested == list(range(8, 65, 8))
    assert ticks[-1]["val_accuracy"] > 0.95
    assert ticks[-1]["val_loss"] < 0.5


@pytest.mark.slow
def test_ours_keras_own_and_the_formula_are_one_training(trained: SimpleNamespace) -> None:
    first = {v: rows(trained, v)[:16] for v in VARIANTS}  # later, rounding grows into noise
    losses = {v: [tick["loss"] for tick in ticks] for v, ticks in first.items()}
    np.testing.assert_allclose(losses["metronorm"], losses["keras"], rtol=1e-4)
    np.testing.assert_allclose(losses["formula"], losses["keras"], rtol=1e-4)
    assert abs(losses["without"][0] / losses["keras"][0] - 1) > 0.01


@pytest.mark.slow
def test_a_table_and_a_page_that_needs_no_network(trained: SimpleNamespace) -> None:
    for variant in VARIANTS:
        accuracy = rows(trained, variant)[-1]["val_accuracy"]
        assert re.search(rf"{variant} +│ +8 │ +1 │ +{accuracy:.4f} │", trained.printed)
    page = (trained.runs / "curves.html").read_text()
    assert all(f'"name":"{variant}"' in page for variant in VARIANTS)
    assert "Plotly.newPlot" in page
    assert not re.search(r"<script[^>]* src=", page)


@pytest.mark.slow
def test_the_commands_read_the_runs(
    trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(trained.runs / f"{variant}-0") for variant in ("metronorm", "torch")]
    assert command(["show", *pair]) == 0
    assert re.search(r"ticks +│ +64 │ +64", capsys.readouterr().out)
    assert command(["compare", *pair]) == 0
    assert "A: metronorm-0" in capsys.readouterr().out


@pytest.mark.slow
def test_the_run_says_what_it_was_trained_with(trained: SimpleNamespace) -> None:
    for variant in VARIANTS:
        config = open_run(trained.runs / f"{variant}-0").info.config
        named = {name: config[name] for name in ("variant", "seed", "epochs", "batch_size")}
        assert named == {"variant": variant, "seed": 0, "epochs": 8, "batch_size": BATCH}


def test_the_model_in_torch_is_the_one_in_keras(recipe: ModuleType) -> None:
    ours, theirs = recipe.torch_model(6), recipe.keras_model("metronorm", 6)
    x = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    layers = [layer for layer in ours if list(layer.parameters())]
    dense = [layer for layer in theirs.layers if layer.weights]
    for one, other in zip(layers, dense, strict=True):
        for parameter in one.parameters():
            torch.nn.init.normal_(parameter)
        weight, bias = (each.detach().numpy() for each in one.parameters())
        other.set_weights([weight.T, bias])
    with torch.no_grad():
        expected = ours(torch.from_numpy(x)).softmax(1).numpy()
    got = keras.ops.convert_to_numpy(theirs(x, training=False))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_every_epoch_has_all_examples_in_an_order_of_its_own(recipe: ModuleType) -> None:
    numbers = np.arange(50)
    data = recipe.Data(numbers[:, None].astype("float32"), numbers, None, None)

    def epochs(seed: int) -> list[list[int]]:
        found = recipe.batches(data, seed, 8)
        read = [[(x.numpy(), y.numpy()) for x, y in found] for _ in range(3)]
        assert all((x[:, 0] == y).all() for epoch in read for x, y in epoch)
        return [np.concatenate([y for _, y in epoch]).tolist() for epoch in read]

    orders = epochs(seed=0)
    assert [sorted(order) for order in orders] == [numbers.tolist()] * 3
    assert len({tuple(order) for order in [*orders, *epochs(seed=1), numbers]}) == 7
    assert epochs(seed=0) == orders


def test_the_formula_without_keepdims_does_not_run_or_mixes_rows_with_columns() -> None:
    x = tf.random.stateless_normal((4096, 768), seed=(0, 0))
    mean, variance = tf.nn.moments(x, axes=[-1])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[4096,768\] vs. \[4096\]"):
        (x - mean) / tf.sqrt(variance)
    square = x[:128, :128] + tf.range(128.0)[:, None]
    mean, variance = tf.nn.moments(square, axes=[-1])
    of_rows = tf.reduce_mean((square - mean) / tf.sqrt(variance), axis=-1)
    assert float(tf.reduce_max(tf.abs(of_rows))) > 10  # should be 0


@pytest.mark.slow
def test_a_directory_that_is_taken_ends_it_before_anything_is_trained(
    recipe: ModuleType, trained: SimpleNamespace, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    before = sorted(trained.runs.iterdir())
    arguments = recipe.Arguments(data=data, runs=trained.runs, seeds=2)
    with pytest.raises(RunError, match=r"directory of its own.*without-0"):
        recipe.main(arguments)
    assert sorted(trained.runs.iterdir()) == before


def test_what_cannot_work_is_told_of(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("epochs", "seeds", "batch_size"):
        with pytest.raises(ConfigError, match=f"{name} must be at least 1; got 0"):
            recipe.Arguments(**{name: 0})
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ConfigError, match="TensorFlow; got KERAS_BACKEND=jax"):
        recipe.main(recipe.Arguments())
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(DataError, match="files of Fashion-MNIST must exist"):
        recipe.main(recipe.Arguments(data=tmp_path))


@pytest.mark.slow
@needs_fashion_mnist
def test_fashion_mnist_is_learned(tmp_path: Path) -> None:
    variants = ("without", "metronorm", "torch")
    run("--epochs", 3, "--seeds", 1, "--runs", tmp_path / "runs", "--variants", *variants)
    for variant in variants:
        ticks = open_run(tmp_path / "runs" / f"{variant}-0").ticks().rows()
        assert len(ticks) == 3 * 235
        assert 0.86 < ticks[-1]["val_accuracy"] < 0.92
        assert ticks[-1]["loss"] < 0.6
