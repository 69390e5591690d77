"""The private names of Keras and TensorFlow still do what is needed; read in Keras 3.15.1.

With `metronorm.keras._private` this is the place to look when a new version of Keras fails.
"""

import ast
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import metronorm.keras
from metronorm.keras import _private
from metronorm.keras.variables import native

from .ticking import BACKEND, arrays


def variable(value: float = 0.0, **options: Any) -> keras.Variable:
    return keras.Variable(np.full(2, value), dtype="float32", **options)


def built(**options: Any) -> tuple[Any, list[keras.Variable]]:
    """An optimizer of Keras' own, built for two variables."""
    values = [variable(1.0), variable(2.0)]
    optimizer = keras.optimizers.SGD(0.5, **options)
    optimizer.build(values)
    return optimizer, values


def test_no_other_file_uses_a_private_name_of_an_object() -> None:
    """Except its own, and torch's `_foreach` operations, which torch documents."""
    ours = {"_strategy", "_private"}
    for path in Path(metronorm.keras.__file__).parent.glob("*.py"):
        if path.name == "_private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_special = node.attr.endswith("__") and node.attr != "__internal__"
            known = is_own or is_special or node.attr in ours or node.attr.startswith("_foreach")
            assert known, f"{path.name}: {node.attr}"


def test_apply_calls_the_hook_with_the_gradients_that_are_there() -> None:
    calls = []

    class Noting(_private.BeatOptimizer):
        def apply_beat(self, grads: list[Any], variables: list[Any]) -> None:
            calls.append((arrays(grads), variables))

    values = [variable(), variable()]
    optimizer = Noting(learning_rate=0.5, loss_scale_factor=4.0)
    optimizer.build(values)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([None, keras.ops.full((2,), 8.0)], values)
    [(grads, given)] = calls
    assert grads[0].tolist() == [2, 2]
    assert [id(each) for each in given] == [id(values[1])]
    with pytest.raises(NotImplementedError):
        _private.BeatOptimizer(learning_rate=0.5).apply_beat([], [])


def test_keras_keeps_an_accumulator_for_each_variable() -> None:
    optimizer, values = built(gradient_accumulation_steps=2)
    optimizer.apply([keras.ops.full((2,), 8.0), keras.ops.full((2,), 6.0)], values)
    found = arrays([_private.accumulator(optimizer, value) for value in values])
    assert [each.tolist() for each in found] == [[8, 8], [6, 6]]
    assert int(_private.beat_count(optimizer)) == 1
    assert int(optimizer.iterations) == 0


def test_keras_reads_accumulators_that_it_is_given() -> None:
    """For variables that are overwritten with their gradients it takes the largest of a window."""
    optimizer, values = built(gradient_accumulation_steps=2)
    values[0].overwrite_with_gradient = True
    slots = [variable(), variable()]
    _private.set_accumulators(optimizer, slots)
    assert _private.accumulator(optimizer, values[1]) is slots[1]
    optimizer.apply([keras.ops.full((2,), 8.0), keras.ops.full((2,), 6.0)], values)
    assert arrays(slots)[0].tolist() == [8, 8]


def test_moving_averages() -> None:
    optimizer, values = built(use_ema=True, ema_momentum=0.5)
    assert [id(each) for each in _private.built_for(optimizer)] == [id(each) for each in values]
    _private.beat_count(optimizer).assign(1)
    _private.update_moving_averages(optimizer)
    averages = _private.moving_averages(optimizer)
    assert [each.tolist() for each in arrays(averages)] == [[0.5, 0.5], [1, 1]]
    optimizer.finalize_variable_values(_private.built_for(optimizer))
    assert arrays(values)[0].tolist() == [0.5, 0.5]


def test_clipping() -> None:
    optimizer, _ = built(clipvalue=0.25)
    [clipped] = _private.clip(optimizer, [keras.ops.full((2,), 8.0)])
    assert arrays([clipped])[0].tolist() == [0.25, 0.25]


def test_variables_that_are_excluded_from_weight_decay() -> None:
    values = [variable(), variable()]
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.exclude_from_weight_decay(var_list=values[:1])
    optimizer.build(values)
    assert [_private.has_weight_decay(optimizer, each) for each in values] == [False, True]


@pytest.mark.skipif(BACKEND != "jax", reason="Keras splits variables over devices on JAX")
def test_a_variable_knows_its_layout() -> None:
    mesh = keras.distribution.DeviceMesh((1,), ["batch"], keras.distribution.list_devices()[:1])
    layout = keras.distribution.TensorLayout([None], mesh)
    given = _private.layout(variable(layout=layout))
    assert given is not None
    assert given == getattr(layout, "backend_layout", layout) or given is layout


def test_a_variable_without_a_layout() -> None:
    assert _private.layout(variable()) is None
    assert _private.layout(native(variable())) is None


def test_layers_inside_of_layers_are_found_once() -> None:
    class Outer(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.Dense(2)
            self.same = self.inner

    outer = Outer()
    model = keras.Sequential([outer])
    found = _private.all_layers(model)
    assert found[0] is model
    assert [sum(each is layer for each in found) for layer in (outer, outer.inner)] == [1, 1]
    assert outer.inner not in model.layers, "the public way does not find it"


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
def test_replicas_update_together() -> None:
    import tensorflow as tf

    calls = []
    strategy = tf.distribute.get_strategy()
    _private.outside_replicas(lambda *given: calls.append(given), strategy, 1, 2)
    assert calls == [(strategy, 1, 2)]
