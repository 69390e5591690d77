"""For the tests of `Ticks`: variables, gradients, and the equations in float64."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()
SHAPES = [(3, 4), (4,)]


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    """Compute in float64 everywhere in the block; JAX needs to be asked for it."""
    keras.config.set_floatx("float64")
    try:
        if BACKEND == "jax":
            import jax

            with jax.enable_x64(True):
                yield
        else:
            yield
    finally:
        keras.config.set_floatx("float32")


def drawn(beats: int, seed: int = 0, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    """Draw the gradients of `beats` beats, each a list with one array per shape."""
    generator = np.random.default_rng(seed)
    return [[generator.normal(size=shape) for shape in shapes] for _ in range(beats)]


def variables(dtype: str = "float64") -> list[keras.Variable]:
    """Return two variables, always the same."""
    return [keras.Variable(value, dtype=dtype) for value in drawn(1, seed=9)[0]]


def arrays(tensors: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in tensors]


def run(optimizer: Any, beats: list[Any], values: list[keras.Variable]) -> list[np.ndarray]:
    """Return the variables' values after these beats."""
    for beat in beats:
        gradients = [
            keras.ops.convert_to_tensor(gradient, dtype=value.dtype)
            for gradient, value in zip(beat, values, strict=True)
        ]
        optimizer.apply(gradients, values)
    return arrays(values)


def equations(
    beats: list[Any],
    *,
    steps: int = 1,
    rate: float = 0.01,
    momentum: float = 0.9,
    scaling: str = "sum",
    decay: float = 0.0,
) -> list[np.ndarray]:
    """c = momentum * c + mean of the window's gradients; p = (1 - lr * decay) * p - lr * s * c."""
    scale = {"sum": 1.0, "mean": 1 - momentum, "amplified": 1 / (1 - momentum)}[scaling]
    values = drawn(1, seed=9)[0]
    accumulated = [np.zeros_like(value) for value in values]
    for begin in range(0, len(beats) - steps + 1, steps):
        window = beats[begin : begin + steps]
        for i, value in enumerate(values):
            accumulated[i] = momentum * accumulated[i] + sum(beat[i] for beat in window) / steps
            values[i] = (1 - rate * decay) * value - rate * scale * accumulated[i]
    return values


def close(found: Sequence[Any], expected: Sequence[Any], tolerance: float = 1e-13) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def net(optimizer: Any, width: int = 5, **options: Any) -> keras.Model:
    """A small regression, compiled, with the same weights every time."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((width,)),
        keras.layers.Dense(4, activation="tanh"),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential(layers)
    model.compile(**({"optimizer": optimizer, "loss": "mse"} | options))
    return model
