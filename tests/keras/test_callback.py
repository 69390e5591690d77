import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from metronorm.errors import ConfigError, RunError
from metronorm.keras import TickCallback
from metronorm.runs import open_run

from ..integrations.runs import errors, numbers, ticks_with, whole

# of Keras: how it reads a variable of torch's
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept")

X = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def compiled(**options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.1, **options), loss="mse", metrics=["mae"])
    return model


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback, **options: Any) -> Any:
    """Four batches an epoch, the last of one row; two epochs."""
    arguments = {"batch_size": 3, "epochs": 2, "verbose": 0, "shuffle": False} | options
    return model.fit(X, Y, callbacks=list(callbacks), **arguments).history


class Batches(keras.callbacks.Callback):
    """What Keras reports of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.logs.append(dict(logs or {}))


class Fail(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 2:
            raise KeyError("broken batch")


def test_every_batch_is_a_tick(tmp_path: Path) -> None:
    batches = Batches()
    callback = TickCallback(tmp_path / "run", config={"note": "mine"})
    with pytest.raises(ConfigError, match="while it trains"):
        _ = callback.clock
    fit(compiled(), batches, callback)
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert [row["tick"] for row in rows] == list(range(1, 9))
    assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4
    assert [row["beats"] for row in rows] == [1] * 8
    assert [{"loss": row["loss"], "mae": row["mae"]} for row in rows] == batches.logs
    assert whole(rows)
    assert all(row["data_ns"] and row["step_ns"] for row in rows)
    config = run.info.config
    assert config["backend"] == keras.backend.backend()
    assert config["optimizer"]["learning_rate"] == pytest.approx(0.1)
    assert config["parameters"] == 5
    assert config["note"] == "mine"
    assert errors(run) == [None]


def test_values_of_an_epochs_end_are_under_its_last_tick(tmp_path: Path) -> None:
    model = compiled()
    history = fit(model, TickCallback(tmp_path / "run"), validation_data=(X, Y))
    rows = open_run(tmp_path / "run").ticks().rows()
    assert whole(rows)
    assert ticks_with(rows, "evaluate_ns") == [4, 8]
    ends = [row for row in rows if row["val_loss"] is not None]
    assert [row["tick"] for row in ends] == [4, 8]
    for name, values in history.items():
        assert [row[name] for row in ends] == values


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_epoch_with_an_unknown_number_of_batches(tmp_path: Path) -> None:
    def batches() -> Iterator[tuple[Any, Any]]:
        for begin in range(0, 9, 3):
            yield X[begin : begin + 3], Y[begin : begin + 3]

    history = (
        compiled()
        .fit(
            batches(),
            shuffle=False,
            verbose=0,
            validation_data=(X, Y),
            callbacks=[TickCallback(tmp_path / "run")],
        )
        .history
    )
    rows = open_run(tmp_path / "run").ticks().rows()
    assert whole(rows)
    assert [row["val_loss"] for row in rows] == [None, None, *history["val_loss"]]
    assert ticks_with(rows, "evaluate_ns") == [3]
    assert all(row["step_ns"] for row in rows)


def test_accumulated_batches_are_beats(tmp_path: Path) -> None:
    model = compiled(gradient_accumulation_steps=3)
    fit(model, TickCallback(tmp_path / "run"), epochs=3)
    rows = open_run(tmp_path / "run").ticks().rows()
    assert [(row["tick"], row["beats"], row["epoch"]) for row in rows] == [
        (1, 3, 0), (2, 3, 1), (3, 3, 2), (4, 3, 2)
    ]  # fmt: skip
    assert len(rows) == int(model.optimizer.iterations)
    assert whole(rows)


def test_a_resume_is_a_new_attempt(tmp_path: Path) -> None:
    model = compiled()
    fit(model, TickCallback(tmp_path / "run"), epochs=1)
    model.save(tmp_path / "model.keras")
    fit(model, TickCallback(tmp_path / "run"), epochs=3, initial_epoch=1)
    resumed = keras.models.load_model(tmp_path / "model.keras")
    batches = Batches()
    fit(resumed, batches, TickCallback(tmp_path / "run"), epochs=2, initial_epoch=1)
    run = open_run(tmp_path / "run")
    assert run.attempts == [0, 1, 2]
    rows = run.ticks().rows()
    assert [(row["attempt"], row["tick"], row["epoch"]) for row in rows] == [
        (2 * int(tick > 4), tick, int(tick > 4)) for tick in range(1, 9)
    ]
    assert [row["loss"] for row in rows[4:]] == [logs["loss"] for logs in batches.logs]
    assert len(run.ticks("full").rows()) == 4 + 8 + 4


def test_a_resume_with_only_the_weights_counts_epochs(tmp_path: Path) -> None:
    fit(compiled(), TickCallback(tmp_path / "run"))
    fit(compiled(), TickCallback(tmp_path / "run"), initial_epoch=1)
    assert numbers(open_run(tmp_path / "run")) == [(int(tick > 4), tick) for tick in range(1, 9)]


def test_a_new_training_needs_a_new_directory(tmp_path: Path) -> None:
    fit(compiled(), TickCallback(tmp_path / "run"), epochs=1)
    with pytest.raises(RunError, match="needs a directory of its own"):
        fit(compiled(), TickCallback(tmp_path / "run"), epochs=1)
    fit(compiled(), TickCallback(tmp_path / "run", resume=True), epochs=1)
    assert numbers(open_run(tmp_path / "run")) == [(int(tick > 4), tick) for tick in range(1, 9)]


def test_a_second_fit_continues_the_run(tmp_path: Path) -> None:
    model, callback = compiled(), TickCallback(tmp_path / "run")
    fit(model, callback, epochs=1)
    model.evaluate(X, Y, verbose=0, callbacks=[callback])  # outside of `fit`: not recorded
    fit(model, callback, epochs=1)
    model.compile(optimizer="sgd", loss="mse")  # counts from 0 again
    fit(model, callback, epochs=1)
    run = open_run(tmp_path / "run")
    assert numbers(run) == [((tick - 1) // 4, tick) for tick in range(1, 13)]
    assert "evaluate_ns" not in run.ticks().columns


def test_an_exception_keeps_the_finished_ticks(tmp_path: Path) -> None:
    """No callback hears of it: the end is written when the callback is used again."""
    model, callback = compiled(), TickCallback(tmp_path / "run")
    with pytest.raises(KeyError):
        fit(model, callback, Fail())
    run = open_run(tmp_path / "run")
    assert [row["tick"] for row in run.ticks().rows()] == [1, 2]
    assert errors(run) == []
    fit(model, callback, epochs=1)
    assert errors(run) == ["RunError", None]
    assert numbers(run) == [(int(tick > 2), tick) for tick in range(1, 7)]


def test_a_fit_that_is_stopped(tmp_path: Path) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    fit(compiled(), Stop(), TickCallback(tmp_path / "run"), validation_data=(X, Y))
    rows = open_run(tmp_path / "run").ticks().rows()
    assert ticks_with(rows, "val_loss") == [2]
    assert len(rows) == 2


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_it_loads_only_what_keras_loads(backend: str) -> None:
    if backend == "numpy":
        pytest.importorskip("scipy")
    code = "import sys\nimport {}\nprint(*sys.modules)\nimport {}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code.format("keras", "metronorm.keras")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"KERAS_BACKEND": backend},
    )
    loaded = [
        {module.partition(".")[0] for module in line.split()}
        & {"torch", "tensorflow", "jax", "transformers", "duckdb"}
        for line in done.stdout.splitlines()
    ]
    assert len(loaded) == 2
    assert loaded[0] == loaded[1]
    assert ("torch" in loaded[1]) == (backend == "torch")


def test_without_the_package() -> None:
    code = "import sys\nsys.modules['keras'] = None\nimport metronorm.keras"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in done.stderr
    assert "pip install 'metronorm[keras]'" in done.stderr
