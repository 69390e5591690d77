"""A beat of `metronorm.keras.Ticks` on TensorFlow: in place, under any tf.distribute strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf
from keras import ops

from metronorm.keras import _private
from metronorm.keras.variables import native

if TYPE_CHECKING:
    from metronorm.keras.ticks import Ticks


def apply(optimizer: Ticks, grads: list[Any], variables: list[Any]) -> None:
    """Add the gradients of one beat to the slots; move the variables if it was the last one.

    Args:
        optimizer: the optimizer that has the slots and counts the beats.
        grads: this replica's gradients, tensors or `tf.IndexedSlices`, one for each variable and
            of its shape. They are summed over the replicas.
        variables: variables of the optimizer.
    """
    steps = optimizer.gradient_accumulation_steps
    replica = tf.distribute.get_replica_context()
    if replica is not None:
        grads = replica.all_reduce(tf.distribute.ReduceOp.SUM, grads)
    pairs = list(zip(grads, map(native, variables), strict=True))

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
            if optimizer.weight_decay and _private.has_weight_decay(optimizer, variable):
                variable.assign(variable * (1 - rate * optimizer.weight_decay))
            variable.assign_sub(slot * (rate * optimizer.scale))
        else:
            variable.assign(optimizer.moved(variable, slot, rate))
        slot.assign(slot * optimizer.momentum)

    # This runs outside of the replicas: they cannot meet inside of a branch such as `tf.cond`.
    def update(strategy: Any, pairs: list[Any], rate: Any) -> None:
        for gradient, variable in pairs:
            strategy.extended.update(variable, add, args=(gradient,), group=False)

        def tick() -> None:
            for _, variable in pairs:
                strategy.extended.update(variable, move, args=(rate,), group=False)
            if optimizer.use_ema:
                _average(optimizer)

        if steps is None:
            tick()
        else:
            is_last_beat = tf.equal((native(_private.beat_count(optimizer)) + 1) % steps, 0)
            tf.cond(is_last_beat, tick, lambda: None)

    _private.outside_replicas(update, optimizer._strategy, pairs, optimizer.learning_rate)


def _average(optimizer: Ticks) -> None:
    """Update the moving averages; every `ema_overwrite_frequency` ticks the variables get them."""
    _private.update_moving_averages(optimizer)
    if optimizer.ema_overwrite_frequency:
        is_overwritten = ops.equal(
            (optimizer.iterations + 1) % optimizer.ema_overwrite_frequency, 0
        )
        tf.cond(
            is_overwritten,
            lambda: optimizer.finalize_variable_values(_private.built_for(optimizer)),
            lambda: None,
        )
