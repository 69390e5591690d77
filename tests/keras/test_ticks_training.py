"""`Ticks` where models are trained: fit, train_step, compiled, distributed, saved and loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from metronorm.keras import TickCallback
from metronorm.keras.ticks import Ticks
from metronorm.runs import open_run

from .ticking import BACKEND, arrays, close, drawn, net, run, variables

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 5)).astype("float32")
Y = GENERATOR.normal(size=(12, 1)).astype("float32")
RATE = 0.125

# of TensorFlow and JAX, about what Keras calls
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def trained(model: keras.Model, size: int, epochs: int = 4) -> list[np.ndarray]:
    model.fit(X, Y, batch_size=size, epochs=epochs, shuffle=False, verbose=0)
    return arrays(model.trainable_variables)


@pytest.mark.parametrize(
    "options",
    [{}, {"run_eagerly": True}]
    + [{"jit_compile": compiled} for compiled in (False, True) if BACKEND != "torch"],
    ids=str,
)
def test_equal_beats_are_the_big_batch(options: dict[str, Any]) -> None:
    expected = trained(net(keras.optimizers.SGD(RATE, momentum=0.9), **options), 12)
    model = net(Ticks(RATE, gradient_accumulation_steps=3), **options)
    close(trained(model, 4), expected, tolerance=1e-5)
    assert int(model.optimizer.iterations) == 4


def test_a_custom_train_step() -> None:
    if BACKEND == "jax":
        import jax

        values, optimizer = variables("float32"), Ticks(RATE, gradient_accumulation_steps=2)
        optimizer.build(values)
        step = jax.jit(optimizer.stateless_apply)
        state = [variable.value for variable in optimizer.variables]
        new = [value.value for value in values]
        beats = drawn(4)
        for beat in beats:
            new, state = step(state, [keras.ops.cast(each, "float32") for each in beat], new)
        again = run(Ticks(RATE, gradient_accumulation_steps=2), beats, variables("float32"))
        close(arrays(new), again, tolerance=1e-5)
        return

    class Own(keras.Sequential):
        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            if BACKEND == "tensorflow":
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = self.compute_loss(x, y, self(x, training=True))
                grads = tape.gradient(loss, self.trainable_variables)
            else:
                self.zero_grad()
                loss = self.compute_loss(x, y, self(x, training=True))
                loss.backward()
                grads = [variable.value.grad for variable in self.trainable_variables]
            self.optimizer.apply(grads, self.trainable_variables)
            return {"loss": loss}

    theirs = net(Ticks(RATE, gradient_accumulation_steps=3))
    model = Own(theirs.layers)
    model.compile(optimizer=Ticks(RATE, gradient_accumulation_steps=3), loss="mse")
    start = theirs.get_weights()
    found = trained(model, 4)
    theirs.set_weights(start)
    close(found, trained(theirs, 4), tolerance=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends do not work in place")
def test_without_state_nothing_is_changed_in_place() -> None:
    values, optimizer = variables("float32"), Ticks(RATE)
    optimizer.build(values)
    before = arrays(values)
    gradients = [keras.ops.ones(value.shape) for value in values]
    new, state = optimizer.stateless_apply(
        [variable.value for variable in optimizer.variables],
        gradients,
        [value.value for value in values],
    )
    close(arrays(values), before, tolerance=0)
    close(arrays(new), [value - RATE for value in before], tolerance=1e-6)
    assert float(state[0]) == 1
    assert float(optimizer.slot(values[0]).value.sum()) == 0


def test_rows_of_an_embedding() -> None:
    """Whose gradients are sparse on TensorFlow."""
    tokens = np.array([[1, 2, 1], [3, 3, 0]] * 2)
    found = []
    for optimizer, size in (
        (keras.optimizers.SGD(RATE, momentum=0.9), 4),
        (Ticks(RATE, gradient_accumulation_steps=2), 2),
    ):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Embedding(5, 3), keras.layers.Dense(1)])
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(tokens, tokens * 1.0, batch_size=size, epochs=3, shuffle=False, verbose=0)
        found.append(arrays(model.trainable_variables))
    close(found[1], found[0], tolerance=1e-5)


def test_a_scaled_loss_in_half_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inner = Ticks(RATE, gradient_accumulation_steps=3)
        scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=256.0)
        model = net(scaled)
        found = trained(model, 4)
        assert int(inner.iterations) == 4
    finally:
        keras.config.set_dtype_policy("float32")
    close(found, trained(net(Ticks(RATE)), 12), tolerance=0.02)


@pytest.mark.parametrize("batches", [3, 4], ids=["between windows", "inside a window"])
def test_training_continues_bit_for_bit_after_saving_and_loading(
    tmp_path: Path, batches: int
) -> None:
    def part(model: keras.Model, begin: int, end: int) -> None:
        for index in range(begin, end):
            rows = slice(index % 6 * 2, index % 6 * 2 + 2)
            model.train_on_batch(X[rows], Y[rows])

    options: dict[str, Any] = {"gradient_accumulation_steps": 3, "use_ema": True}
    model = net(Ticks(RATE, **options))
    part(model, 0, batches)
    model.save(tmp_path / "all.keras")
    model.save_weights(tmp_path / "all.weights.h5")
    part(model, batches, 12)
    expected = [*arrays(model.variables), *arrays(model.optimizer.variables)]
    again = keras.saving.load_model(tmp_path / "all.keras")
    assert type(again.optimizer) is Ticks
    part(again, batches, 12)
    close([*arrays(again.variables), *arrays(again.optimizer.variables)], expected, tolerance=0)
    third = net(Ticks(RATE, **options))
    third.optimizer.build(third.trainable_variables)
    third.load_weights(tmp_path / "all.weights.h5")
    part(third, batches, 12)
    close([*arrays(third.variables), *arrays(third.optimizer.variables)], expected, tolerance=0)


def test_ticks_on_record(tmp_path: Path) -> None:
    model = net(Ticks(RATE, gradient_accumulation_steps=3))
    recorded = TickCallback(tmp_path / "run")
    model.fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[recorded])
    rows = open_run(tmp_path / "run").ticks().rows()
    assert [(row["tick"], row["beats"]) for row in rows] == [(1, 3), (2, 3), (3, 3), (4, 3)]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_replicas() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.keras.replicas"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.count("equal") == 3, done.stderr[-2000:]
