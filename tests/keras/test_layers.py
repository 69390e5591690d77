"""Our layers and functions against the float64 equations that the torch kernels are judged by."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from metronorm.errors import ConfigError
from metronorm.keras import (
    LayerNormalization,
    RMSNormalization,
    formula,
    layer_normalization,
    rms_normalization,
)

from .judge import Results, as_numpy, draw, gradients, reference_results, relative_error
from .ticking import doubles

BACKEND = keras.backend.backend()
EPS = {"float32": 2e-6, "bfloat16": 6e-3, "float16": 8e-4, "float64": 1e-13}


def run(
    kind: str, x: Any, gamma: Any, beta: Any, dy: Any, dtype: str, weights: str, epsilon: float
) -> tuple[Results, Results]:
    """What ours gives, and what the equations give for the same rounded inputs."""
    x, dy = ops.cast(x, dtype), ops.cast(dy, dtype)
    gamma, beta = ops.cast(gamma, weights), ops.cast(beta, weights)
    if kind == "layer":
        y, (dx, dgamma, dbeta) = gradients(
            lambda x, gamma, beta: layer_normalization(x, epsilon, gamma, beta),
            [x, gamma, beta],
            dy,
        )
    else:
        y, (dx, dgamma) = gradients(
            lambda x, gamma: rms_normalization(x, epsilon, gamma), [x, gamma], dy
        )
        dbeta = None
    wide = [as_numpy(each) for each in (x, gamma, beta, dy)]
    want = reference_results(
        wide[0], wide[1], wide[2] if kind == "layer" else None, wide[3], epsilon
    )
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    assert keras.backend.standardize_dtype(dx.dtype) == dtype
    assert keras.backend.standardize_dtype(dgamma.dtype) == weights
    return Results(y, dx, dgamma, dbeta), want


def assert_close(got: Results, want: Results, dtype: str, weights: str) -> None:
    for name in ("y", "dx"):
        assert relative_error(getattr(got, name), getattr(want, name)) < EPS[dtype], name
    assert relative_error(got.dgamma, want.dgamma) < max(EPS["float32"], EPS[weights])
    if want.dbeta is not None:
        assert relative_error(got.dbeta, want.dbeta) < max(EPS["float32"], EPS[weights])


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize(
    ("shape", "dtype", "weights"),
    [
        ((4, 8), "float32", "float32"),
        ((64, 768), "float32", "float32"),
        ((7, 1), "float32", "float32"),
        ((2, 3, 33), "bfloat16", "float32"),
        ((2, 3, 33), "float16", "float32"),
        ((2, 3, 33), "bfloat16", "bfloat16"),
        ((2, 3, 33), "float16", "float16"),
    ],
)
def test_is_its_equation(kind: str, shape: tuple[int, ...], dtype: str, weights: str) -> None:
    x, dy = draw(shape, mean=0.5, scale=2), draw(shape, seed=1)
    gamma, beta = draw(shape[-1:], seed=2, mean=1), draw(shape[-1:], seed=3)
    got, want = run(kind, x, gamma, beta, dy, dtype, weights, 1e-3)
    if shape[-1] == 1:  # a number less its mean, or over its size: what moves is epsilon's
        assert relative_error(got.y, want.y) < max(EPS[dtype], EPS[weights])
        assert np.abs(as_numpy(got.dx) - want.dx).max() < 1e-2 * np.abs(dy).max()
    else:
        assert_close(got, want, dtype, weights)


def test_float64_is_float64() -> None:
    x, dy, gamma, beta = draw((5, 40)), draw((5, 40), seed=1), draw((40,), seed=2), draw((40,))
    with doubles():
        judged = run("layer", x, gamma, beta, dy, "float64", "float64", 1e-3)
    for got, want in zip(*judged, strict=True):
        assert relative_error(got, want) < EPS["float64"]


@pytest.mark.parametrize("centred", [True, False])
def test_accelerators_sum_where_cpus_multiply(centred: bool) -> None:
    x, dy = (ops.cast(draw((9, 40), seed=seed), "float32") for seed in (0, 1))
    gamma, beta = (ops.cast(draw((40,), seed=seed), "float32") for seed in (2, 3))
    found = []
    for by_matmul in (True, False):
        how = {"centred": centred, "by_matmul": by_matmul}
        y, m, r = formula.forward(x, gamma, beta, 1e-3, **how)
        found.append([y, m, r, *formula.backward(dy, x, gamma, m, r, **how)])
    for product, total in zip(*found, strict=True):
        assert relative_error(product, as_numpy(total)) < EPS["float32"]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -3e7])
def test_constant_rows_are_zero(value: float) -> None:
    x = ops.full((3, 768), value, dtype="float32")
    assert not as_numpy(layer_normalization(x, 1e-6)).any()


def test_a_large_mean_costs_nothing() -> None:
    x, dy = draw((32, 768), mean=1e4), draw((32, 768), seed=1)
    ones, zeros = np.ones(768), np.zeros(768)
    got, want = run("layer", x, ones, zeros, dy, "float32", "float32", 1e-5)
    assert_close(got, want, "float32", "float32")
    theirs = keras.layers.LayerNormalization(epsilon=1e-5)(ops.cast(x, "float32"))
    assert relative_error(got.y, want.y) <= relative_error(theirs, want.y)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weight_gradients_in_half_precision_add_up_every_row(dtype: str) -> None:
    """16,384 rows of slope 1: a sum kept in bfloat16 would stop at 256."""
    rows = 16_384
    x, ones = draw((rows, 8)), np.ones((rows, 8))
    got, want = run("layer", x, np.ones(8), np.zeros(8), ones, dtype, "float32", 1e-3)
    assert np.array_equal(as_numpy(got.dbeta), np.full(8, rows))
    scale = float(np.sqrt(rows))  # dgamma itself is what is left of terms that cancel
    assert np.abs(as_numpy(got.dgamma) - want.dgamma).max() < 1e-4 * scale


@pytest.mark.parametrize("axis", [1, -2, [1, 2], [1, -1], [3, 1], [0]])
def test_any_axes(axis: Any) -> None:
    x = draw((2, 3, 4, 5))
    axes = sorted(each % 4 for each in (axis if isinstance(axis, list) else [axis]))
    wide = x - x.mean(tuple(axes), keepdims=True)
    want = wide / np.sqrt((wide**2).mean(tuple(axes), keepdims=True) + 1e-3)
    layer = LayerNormalization(axis=axis)
    y = layer(ops.cast(x, "float32"))
    assert relative_error(y, want) < EPS["float32"]
    assert tuple(layer.gamma.shape) == tuple(x.shape[each] for each in axes)
    gamma = draw(tuple(layer.gamma.shape), seed=4)
    layer.gamma.assign(gamma)
    broad = gamma.reshape([x.shape[each] if each in axes else 1 for each in range(4)])
    assert relative_error(layer(ops.cast(x, "float32")), want * broad) < EPS["float32"]


@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_without_gamma_or_beta(center: bool, scale: bool) -> None:
    x = ops.cast(draw((6, 9)), "float32")
    ours = LayerNormalization(center=center, scale=scale)
    theirs = keras.layers.LayerNormalization(center=center, scale=scale)
    assert relative_error(ours(x), as_numpy(theirs(x))) < 1e-5
    assert [each.name for each in ours.weights] == [each.name for each in theirs.weights]
    _, (dx,) = gradients(ours, [x], ops.ones_like(x))
    assert relative_error(dx, np.zeros((6, 9))) < 1e25, "finite: a sum of y is constant"
    assert np.abs(as_numpy(dx)).max() < 1e-5


def test_gradients_can_be_differentiated() -> None:
    """The gradient of |dx|² against differences of it."""
    x, dy = draw((3, 5), scale=2), draw((3, 5), seed=1)
    gamma, beta = draw((5,), seed=2, mean=1), draw((5,), seed=3)

    def steepness(x: Any) -> Any:
        _, (dx, *_) = gradients(
            lambda x: layer_normalization(
                x, 1e-2, ops.cast(gamma, "float32"), ops.cast(beta, "float32")
            ),
            [x],
            ops.cast(dy, "float32"),
        )
        return ops.sum(dx * dx)

    def exactly(x: np.ndarray[Any, Any]) -> float:
        return float((reference_results(x, gamma, beta, dy, 1e-2).dx ** 2).sum())

    if BACKEND == "torch":
        pytest.skip("the torch side has a test of its own")
    _, (found,) = gradients(steepness, [ops.cast(x, "float32")], ops.ones(()))
    step = 1e-5
    for index in np.ndindex(x.shape):
        more, less = x.copy(), x.copy()
        more[index] += step
        less[index] -= step
        slope = (exactly(more) - exactly(less)) / (2 * step)
        assert as_numpy(found)[index] == pytest.approx(slope, rel=2e-3, abs=1e-4)


def test_not_a_number_stays_in_its_row() -> None:
    x = draw((3, 8))
    x[1, 3] = np.nan
    y = as_numpy(layer_normalization(ops.cast(x, "float32"), 1e-3))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


def test_no_rows() -> None:
    x = ops.zeros((0, 5))
    y, (dx,) = gradients(lambda x: layer_normalization(x, 1e-3), [x], x)
    assert tuple(y.shape) == tuple(dx.shape) == (0, 5)


# As a layer of Keras -----------------------------------------------------------------------------


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rms = LayerNormalization(), RMSNormalization()
        self.dense = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(self.rms(self.norm(x)))


def sequential() -> keras.Model:
    return keras.Sequential(
        [LayerNormalization(), RMSNormalization(name="rms"), keras.layers.Dense(1)]
    )


def functional() -> keras.Model:
    x = keras.Input((6,))
    y = rms_normalization(layer_normalization(LayerNormalization()(x), 1e-3), 1e-3)
    return keras.Model(x, keras.layers.Dense(1)(y))


@pytest.mark.parametrize("build", [sequential, functional, Subclassed])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_trains_in_every_kind_of_model(build: Any, policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        model = build()
    finally:
        keras.config.set_dtype_policy(before)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    x = draw((64, 6))
    y = x[:, :1] - x[:, 1:2]
    history = model.fit(x, y, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    for weight in model.trainable_variables:
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"


@pytest.mark.parametrize("build", [sequential, functional])
def test_saved_and_loaded(build: Any, tmp_path: Path) -> None:
    model = build()
    x = draw((4, 6))
    want = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict(x, verbose=0), want)
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]


def test_is_a_drop_in() -> None:
    """Arguments, weights and config of Keras' own, in both directions."""
    options = {
        "axis": -1,
        "epsilon": 0.01,
        "beta_initializer": "ones",
        "gamma_initializer": keras.initializers.Constant(0.5),
        "gamma_regularizer": "l2",
        "beta_constraint": "non_neg",
        "name": "norm",
        "dtype": "float32",
    }
    ours, theirs = LayerNormalization(**options), keras.layers.LayerNormalization(**options)
    x = ops.cast(draw((3, 4)), "float32")
    assert relative_error(ours(x), as_numpy(theirs(x))) < 1e-5
    assert ours.get_config() == theirs.get_config()
    assert ours.losses[0] == theirs.losses[0]
    again = keras.layers.LayerNormalization.from_config(ours.get_config())
    again.build((3, 4))
    again.set_weights(ours.get_weights())
    assert isinstance(ours, keras.layers.LayerNormalization)
    assert isinstance(RMSNormalization(), keras.layers.RMSNormalization)


def test_numbers_of_numpy_are_numbers_that_can_be_saved() -> None:
    for kind in (LayerNormalization, RMSNormalization):
        layer = kind(axis=[np.int64(1), -1], epsilon=np.float32(0.25))
        plain = kind(axis=[1, -1], epsilon=0.25, name=layer.name)
        assert json.loads(json.dumps(layer.get_config()))["axis"] == [1, -1]
        x = ops.cast(draw((3, 4, 5)), "float32")
        assert np.array_equal(as_numpy(layer(x)), as_numpy(plain(x)))
        assert layer.get_config() == plain.get_config()
        assert kind(axis=np.int64(-1)).axis == -1
    x = ops.cast(draw((3, 4)), "float32")
    want = as_numpy(layer_normalization(x, 0.25))
    assert np.array_equal(as_numpy(layer_normalization(x, np.float32(0.25), axis=np.int8(1))), want)


def test_masks_pass_through() -> None:
    model = keras.Sequential([keras.layers.Masking(), LayerNormalization()])
    assert model.layers[1].supports_masking
    model(ops.ones((2, 3, 4)))


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [{"axis": -1}, {1}, "last", 1.0, True, None, [], [1, "x"]])
@pytest.mark.parametrize("kind", [LayerNormalization, RMSNormalization])
def test_an_axis_that_is_not_an_integer_is_the_error_of_keras(kind: Any, axis: Any) -> None:
    message = r"^Expected an int or a list/tuple of ints for the argument 'axis'; got "
    for error in (ConfigError, TypeError):
        with pytest.raises(error, match=message):
            kind(axis=axis)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: LayerNormalization(epsilon=0.0), "epsilon must be finite and positive; got 0.0"),
        (lambda: LayerNormalization(epsilon=-1e-3), "got -0.001"),
        (lambda: RMSNormalization(epsilon=float("nan")), "got nan"),
        (lambda: LayerNormalization(axis="last"), "Expected an int or a list/tuple of ints"),
        (lambda: LayerNormalization(axis=[]), "Expected an int or a list/tuple of ints"),
        (lambda: RMSNormalization(axis=1.0), "Expected an int or a list/tuple of ints"),
        (lambda: LayerNormalization(rms_scaling=True), "RMSNormalization"),
        (lambda: LayerNormalization(axis=2)(ops.ones((2, 3))), "one of the input's 2"),
        (lambda: LayerNormalization(axis=[1, -1])(ops.ones((2, 3))), "axes must differ"),
        (lambda: LayerNormalization()(keras.Input((None,))), "size of a normalized axis"),
        (lambda: LayerNormalization()(ops.ones((2, 0))), "at least 1; got axis 1"),
        (lambda: LayerNormalization()(ops.ones((2, 3), dtype="int32")), "got int32"),
        (lambda: layer_normalization(ops.ones((2, 3), dtype="bool"), 1e-3), "got bool"),
        (lambda: layer_normalization(keras.Input((3,), dtype="int32"), 1e-3), "got int32"),
        (lambda: layer_normalization(ops.ones((2, 3)), 1e-3, ops.ones((2,))), "gamma must have"),
        (lambda: LayerNormalization.from_config({"axis": -1, "momentum": 0.9}), "'momentum'"),
        (lambda: RMSNormalization.from_config({"groups": 2}), "'groups'"),
    ],
)
def test_a_mistake_is_one_error(mistake: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mistake()
