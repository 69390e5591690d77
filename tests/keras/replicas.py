"""Trains on two logical devices of TensorFlow, and on one: `python -m tests.keras.replicas`."""

import functools
import os
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from metronorm.keras import LayerNormalization, RMSNormalization, Ticks, windows

from .ticking import arrays, net


def as_dataset(beats: Any, number: int) -> tf.data.Dataset:
    """Return the beats without end, as a dataset that does not call Python.

    Fed from a Python generator or a PyDataset with batches of different sizes, two logical CPUs of
    TensorFlow 2.21 sometimes differ from one, with `keras.optimizers.SGD` as well.
    """
    parts = [tf.data.Dataset.from_tensors(beats[index]) for index in range(number)]
    return functools.reduce(lambda one, other: one.concatenate(other), parts).repeat()


def normalized() -> keras.Model:
    """A model of our layers, compiled; always the same."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8), LayerNormalization(), RMSNormalization()]
    model = keras.Sequential([keras.layers.Input((5,)), *layers, keras.layers.Dense(1)])
    model.compile(optimizer=Ticks(0.125), loss="mse")
    return model


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    keras.config.set_floatx("float64")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 5)), generator.normal(size=(12, 1))
    beats = [(x[:4], y[:4]), (x[4:6], y[4:6]), (x[6:], y[6:])]
    averaged = {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.5}
    for options in ({}, {"run_eagerly": True}):
        big = net(Ticks(0.125, **averaged), **options)
        big.fit(x, y, batch_size=12, epochs=4, verbose=0)
        # The collectives of a second strategy in one process fail, run eagerly.
        strategy = tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
        assert strategy.num_replicas_in_sync == 2
        with strategy.scope():
            model = net(Ticks(0.125, gradient_accumulation_steps=3, **averaged), **options)
        dataset = as_dataset(windows(beats, 3, model=model), 3)
        model.fit(dataset, steps_per_epoch=3, epochs=4, verbose=0)
        assert int(model.optimizer.iterations) == 4
        for one, other in zip(big.variables, model.variables, strict=True):
            for replica in strategy.experimental_local_results(other.value):
                np.testing.assert_allclose(replica.numpy(), arrays([one])[0], rtol=1e-12)
        print("equal", options)
    batches = tf.data.Dataset.from_tensors((x, y)).repeat()
    single = normalized()
    single.fit(batches, steps_per_epoch=4, verbose=0)
    with strategy.scope():
        model = normalized()
    model.fit(batches, steps_per_epoch=4, verbose=0)
    for one, other in zip(single.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    print("equal with our norms")


if __name__ == "__main__":
    main()
