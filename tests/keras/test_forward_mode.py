"""Derivatives in forward mode, alone and over reverse mode: right on TensorFlow, refused by JAX."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from metronorm.keras import LayerNormalization, layer_normalization, rms_normalization

from .judge import Array, as_numpy, draw, reference_results, relative_error

BACKEND = keras.backend.backend()
ON_TENSORFLOW = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="ForwardAccumulator is TensorFlow's"
)
EPSILON, STEP = 1e-2, 1e-4

VALUES = [draw((4, 6), scale=2), draw((6,), seed=1, mean=1), draw((6,), seed=2)]
SLOPES = [draw((4, 6), seed=3), draw((6,), seed=4), draw((6,), seed=5)]
DY = draw((4, 6), seed=6)


def norm(kind: str) -> Callable[..., Any]:
    """Of x, gamma and beta, where it has one."""
    if kind == "layer":
        return lambda x, gamma, beta: layer_normalization(x, EPSILON, gamma, beta)
    return lambda x, gamma: rms_normalization(x, EPSILON, gamma)


def given(kind: str) -> tuple[list[Any], list[Any]]:
    """Values and slopes of x, gamma and beta."""
    count = 3 if kind == "layer" else 2
    values, slopes = (
        [ops.cast(each, "float32") for each in which[:count]] for which in (VALUES, SLOPES)
    )
    return values, slopes


def along(kind: str, what: str) -> Array:
    """How y or dx of the equations changes along the slopes, from a difference in float64."""
    ends = []
    for sign in (1, -1):
        x, gamma, beta = (
            value + sign * STEP * slope for value, slope in zip(VALUES, SLOPES, strict=True)
        )
        found = reference_results(x, gamma, beta if kind == "layer" else None, DY, EPSILON)
        ends.append(getattr(found, what))
    return (ends[0] - ends[1]) / (2 * STEP)


def in_the_way(how: str, function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    if how == "eager":
        return function
    return tf.function(function, jit_compile=how == "xla")  # type: ignore[no-any-return]


@ON_TENSORFLOW
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_forward_mode_through_the_forward_pass(kind: str, how: str) -> None:
    import tensorflow as tf

    values, slopes = given(kind)
    run = in_the_way(how, norm(kind))
    with tf.autodiff.ForwardAccumulator(values, slopes) as forward:
        y = run(*values)
    assert relative_error(forward.jvp(y), along(kind, "y")) < 1e-5


@ON_TENSORFLOW
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_forward_mode_through_the_backward_pass(kind: str, how: str) -> None:
    """How products with the Hessian are computed."""
    import tensorflow as tf

    values, slopes = given(kind)
    run = in_the_way(how, norm(kind))
    with tf.autodiff.ForwardAccumulator(values, slopes) as forward, tf.GradientTape() as tape:
        tape.watch(values)
        y = run(*values)
        dx = tape.gradient(y, values, ops.cast(DY, "float32"))[0]
    assert relative_error(forward.jvp(dx), along(kind, "dx")) < 1e-5


@ON_TENSORFLOW
def test_forward_mode_from_a_layers_weight() -> None:
    import tensorflow as tf

    layer, x = LayerNormalization(epsilon=EPSILON), ops.cast(VALUES[0], "float32")
    layer.build(x.shape)
    slope = ops.cast(SLOPES[1], "float32")
    with tf.autodiff.ForwardAccumulator(layer.gamma.value, slope) as forward:
        y = layer(x)
    assert relative_error(forward.jvp(y), as_numpy(y) * SLOPES[1]) < 1e-5


@ON_TENSORFLOW
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_all_second_derivatives_are_those_of_the_equations(kind: str) -> None:
    """Reverse over reverse, as products with the same slopes: the Hessian is symmetric."""
    import tensorflow as tf

    values, slopes = given(kind)
    with tf.GradientTape() as outer:
        outer.watch(values)
        with tf.GradientTape() as tape:
            tape.watch(values)
            y = norm(kind)(*values)
        firsts = tape.gradient(y, values, ops.cast(DY, "float32"))
        along_slopes = sum(tf.reduce_sum(a * b) for a, b in zip(firsts, slopes, strict=True))
    found = outer.gradient(along_slopes, values)
    assert relative_error(found[0], along(kind, "dx")) < 1e-5
    assert relative_error(found[1], along(kind, "dgamma")) < 1e-5
    if kind == "layer":
        assert found[2] is None or not as_numpy(found[2]).any()


@pytest.mark.skipif(BACKEND != "jax", reason="of jax.jvp")
def test_jax_reports_that_it_has_no_forward_mode() -> None:
    import jax

    x = np.ones((2, 3), "float32")
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: layer_normalization(x, EPSILON), (x,), (x,))
