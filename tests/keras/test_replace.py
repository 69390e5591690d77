"""Keras' own normalizations become ours."""

from typing import Any

import keras
import numpy as np
import pytest

from metronorm.errors import ConfigError
from metronorm.keras import LayerNormalization, RMSNormalization, replace_norms

from .judge import draw


class Block(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm = keras.layers.LayerNormalization()
        self.dense = keras.layers.Dense(6)

    def build(self, shape: Any) -> None:
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x: Any) -> Any:
        return x + self.dense(self.norm(x))


class Cautious(keras.layers.LayerNormalization):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return 2 * super().call(x)


def network() -> keras.Model:
    shared = keras.layers.LayerNormalization(name="shared")
    x = keras.Input((6,))
    y = shared(keras.layers.Dense(6)(shared(x)))
    y = keras.Sequential([Block(), keras.layers.RMSNormalization(name="rms")])(y)
    model = keras.Model(x, keras.layers.Dense(1)(Cautious(name="cautious")(y)))
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    return model


def test_norms_become_ours_and_training_goes_on() -> None:
    keras.utils.set_random_seed(0)
    model = network()
    x = draw((32, 6))
    y = x[:, :1]
    model.fit(x, y, epochs=2, batch_size=8, verbose=0)
    want = model.predict(x, verbose=0)
    variables = [id(variable) for variable in model.variables]
    iterations = int(model.optimizer.iterations)
    replacement = replace_norms(model)
    assert len(replacement.swapped) == 3, str(replacement)
    assert list(replacement.skipped.values()) == ["a Cautious may do something else"]
    kinds = [type(layer) for layer in model._flatten_layers()]
    assert kinds.count(LayerNormalization) == 2
    assert kinds.count(RMSNormalization) == 1
    assert keras.layers.LayerNormalization not in kinds
    np.testing.assert_allclose(model.predict(x, verbose=0), want, rtol=1e-4, atol=1e-5)
    model.fit(x, y, epochs=1, batch_size=8, verbose=0)
    assert [id(variable) for variable in model.variables] == variables
    assert int(model.optimizer.iterations) == iterations + 4
    replacement.undo()
    replacement.undo()
    assert LayerNormalization not in [type(layer) for layer in model._flatten_layers()]
    model.fit(x, y, epochs=1, batch_size=8, verbose=0)


def test_undone_at_the_end_of_a_block() -> None:
    model = network()
    with replace_norms(model) as replacement:
        assert "3 norms swapped, 1 skipped; cautious: a Cautious" in str(replacement)
        assert replace_norms(model).swapped == (), "already ours"
    assert type(model.get_layer("shared")) is keras.layers.LayerNormalization


def test_norms_that_are_not_replaced() -> None:
    model = keras.Sequential([keras.layers.LayerNormalization(name="later")])
    assert replace_norms(model).skipped == {"later": "is not built yet"}
    model = keras.Sequential([keras.Input((3,)), keras.layers.LayerNormalization(epsilon=0.0)])
    (why,) = replace_norms(model).skipped.values()
    assert "epsilon must be" in why
    with pytest.raises(ConfigError, match="must be a model of Keras; got int"):
        replace_norms(3)  # type: ignore[arg-type]
