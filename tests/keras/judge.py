"""For the tests of the normalizations: runs on every backend, compared with float64."""

from typing import Any, NamedTuple

import keras
import numpy as np
import torch
from keras import ops

from metronorm.norm import reference

Array = np.ndarray[Any, Any]


class Results(NamedTuple):
    """The results of one normalization; gradients are those of `<y, dy>`."""

    y: Array
    dx: Array
    dgamma: Array
    dbeta: Array | None


def as_numpy(value: Any) -> Array:
    return np.asarray(ops.convert_to_numpy(value)).astype("float64")


def gradients(function: Any, inputs: list[Any], slope: Any) -> tuple[Any, list[Any]]:
    """Return the value of a function, and the gradients of `<value, slope>`, on any backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = function(*inputs)
        return value, tape.gradient(value, inputs, slope)
    if backend == "jax":
        import jax

        value, back = jax.vjp(function, *inputs)
        return value, list(back(slope))
    leaves = [each.detach().requires_grad_() for each in inputs]
    value = function(*leaves)
    return value, list(torch.autograd.grad(value, leaves, slope))


def reference_results(
    x: Array, gamma: Array, beta: Array | None, dy: Array, epsilon: float
) -> Results:
    """Return the results of the float64 equations over the last axis; beta None: RMS."""
    n = x.shape[-1]
    rows, slopes = (torch.from_numpy(np.asarray(a, "float64")).reshape(-1, n) for a in (x, dy))
    weight = torch.from_numpy(np.asarray(gamma, "float64"))
    centred = beta is not None
    bias = torch.from_numpy(np.asarray(beta, "float64")) if centred else torch.zeros(n)
    y = reference.forward(rows, weight, bias, epsilon, centred=centred)
    found = reference.backward(slopes, rows, weight, epsilon, centred=centred)
    return Results(
        y.numpy().reshape(x.shape),
        found.x.numpy().reshape(x.shape),
        found.weight.numpy(),
        found.bias.numpy() if centred else None,
    )


def relative_error(got: Any, want: Array) -> float:
    """Return the 2-norm of the difference, divided by that of the wanted values."""
    scale = max(float(np.linalg.norm(want)), 1e-30)
    return float(np.linalg.norm(as_numpy(got) - want)) / scale


def draw(shape: tuple[int, ...], *, seed: int = 0, mean: float = 0.0, scale: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(mean, scale, shape)
