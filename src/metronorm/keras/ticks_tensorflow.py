"""A beat of `metronorm.keras.Ticks` on TensorFlow: in place, under any tf.distribute strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf
from keras import ops

from metronorm.keras.ticks import native

if TYPE_CHECKING:
    from metronorm.keras.ticks import Ticks


def apply(optimizer: Ticks, grads: list[Any], variables: list[Any]) -> None:
    """Add gradients to the slots; if that was the window's last beat, move the variables.

    Args:
        optimizer: whose slots, and whose iterations tell which beat it is.
        grads: of this replica, tensors or `tf.IndexedSlices`; they are summed over the replicas.
        variables: of the same number and shapes.
    """
    steps = optimizer.gradient_accumulation_steps
    pairs = optimizer._all_reduce_sum_gradients(
        list(zip(grads, map(native, variables), strict=True))
    )

    def add(variable: Any, gradient: Any) -> None:
        slot = native(optimizer.slot(variable))
        if isinstance(gradient, tf.IndexedSlices):
            values = tf.cast(gradient.values, slot.dtype)
            rows = tf.IndexedSlices(values if steps is None else values / steps, gradient.indices)
            slot.scatter_add(rows)
        else:
            gradient = tf.cast(gradient, slot.dtype)
            slot.assign_add(gradient if steps is None else gradient / steps)

    def move(variable: Any, rate: Any) -> None:
        slot = native(optimizer.slot(variable))
        if variable.dtype == slot.dtype:
            rate = tf.cast(rate, slot.dtype)
            if optimizer.weight_decay and optimizer._use_weight_decay(variable):
                variable.assign(variable * (1 - rate * optimizer.weight_decay))
            variable.assign_sub(slot * (rate * optimizer.scale))
        else:
            variable.assign(optimizer.moved(variable, slot, rate))
        slot.assign(slot * optimizer.momentum)

    # Outside of the replicas: a branch in which they would have to meet cannot be inside of one.
    def update(strategy: Any, pairs: list[Any], rate: Any) -> None:
        for gradient, variable in pairs:
            strategy.extended.update(variable, add, args=(gradient,), group=False)

        def tick() -> None:
            for _, variable in pairs:
                strategy.extended.update(variable, move, args=(rate,), group=False)
            if optimizer.use_ema:
                average(optimizer)

        if steps is None:
            tick()
        else:
            tf.cond(tf.equal((native(optimizer._iterations) + 1) % steps, 0), tick, lambda: None)

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, optimizer._distribution_strategy, pairs, optimizer.learning_rate
    )


def average(optimizer: Ticks) -> None:
    """Update the moving averages, and every so many ticks give them to the variables."""
    optimizer._update_model_variables_moving_average(optimizer._trainable_variables)
    if optimizer.ema_overwrite_frequency:
        last = ops.equal((optimizer.iterations + 1) % optimizer.ema_overwrite_frequency, 0)
        tf.cond(
            last,
            lambda: optimizer._overwrite_model_variables_with_average_value(
                optimizer._trainable_variables
            ),
            lambda: None,
        )
