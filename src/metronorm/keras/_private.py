"""The private names of Keras and TensorFlow that this package uses, each with its reason.

They were read in Keras 3.15.1 and TensorFlow 2.21. `tests/keras/test_private.py` fails when one of
them has changed. No other file of this package uses a private name of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class BeatOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """A Keras optimizer that does the whole work of a beat itself, in `apply_beat`.

    Private: `_backend_apply_gradients`. `apply` calls it after it has left out missing gradients
    and divided the others by the loss scale, and before it applies constraints.
    Public: `update_step`, which sees one variable at a time, and for which Keras accumulates
    gradients in a second slot. An optimizer with one slot cannot be written with it.
    """

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: Any) -> None:
        self.apply_beat(grads, list(trainable_variables))

    def apply_beat(self, grads: list[Any], variables: list[Any]) -> None:
        """Use the gradients of one beat; subclasses implement it.

        Args:
            grads: tensors of the backend, or `tf.IndexedSlices`.
            variables: the variables that have these gradients, in the same order.
        """
        raise NotImplementedError


def set_accumulators(optimizer: Any, slots: Sequence[Any]) -> None:
    """Give the optimizer its accumulated gradients, one for each variable it was built with.

    Private: `_accumulated_gradients`. Keras also reads it for variables that are overwritten with
    their gradients (scales of float8), so our slots must be in this place.
    Public: none.
    """
    optimizer._accumulated_gradients = list(slots)


def accumulator(optimizer: Any, variable: Any) -> Any:
    """Return the accumulated gradient of a variable.

    Private: `_accumulated_gradients`, and `_get_variable_index`, which Keras' documentation of
    custom optimizers uses. It also finds the copy of a variable that a replica has.
    Public: a dictionary by `id(variable)`, which does not know replicas.
    """
    return optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]


def beat_count(optimizer: Any) -> Any:
    """Return the `keras.Variable` that counts the calls of `apply`, which are beats.

    Private: `_iterations`.
    Public: `iterations`, the same divided by `gradient_accumulation_steps`, so it counts ticks.
    """
    return optimizer._iterations


def built_for(optimizer: Any) -> list[Any]:
    """Return the variables that the optimizer was built with, in order.

    Private: `_trainable_variables`.
    Public: none. A list of our own in the optimizer would be tracked, and so saved with it.
    """
    return list(optimizer._trainable_variables)


def moving_averages(optimizer: Any) -> list[Any]:
    """Return the moving average of each variable in `built_for`; None where it has none.

    Private: `_model_variables_moving_average`.
    Public: `variables`, which does not say what each variable is for.
    """
    return list(optimizer._model_variables_moving_average)


def update_moving_averages(optimizer: Any) -> None:
    """Update all moving averages with the present values of their variables.

    Private: `_update_model_variables_moving_average`.
    Public: none. (`finalize_variable_values` gives the averages to the variables.)
    """
    optimizer._update_model_variables_moving_average(optimizer._trainable_variables)


def clip(optimizer: Any, grads: list[Any]) -> list[Any]:
    """Return gradients clipped by the optimizer's `clipnorm`, `clipvalue` or `global_clipnorm`.

    Private: `_clip_gradients`.
    Public: none.
    """
    clipped: list[Any] = optimizer._clip_gradients(grads)
    return clipped


def has_weight_decay(optimizer: Any, variable: Any) -> bool:
    """Return False for a variable that `exclude_from_weight_decay` has excluded.

    Private: `_use_weight_decay`.
    Public: none that reads what was excluded.
    """
    return bool(optimizer._use_weight_decay(variable))


def layout(variable: Any) -> Any:
    """Return how a variable is split over devices; None where it is not.

    Private: `_layout`.
    Public: `add_variable_from_reference`, which also copies the dtype, and a slot may need another.
    """
    return getattr(variable, "_layout", None)


def all_layers(model: Any) -> list[Any]:
    """Return the model and all layers in it, at any depth, each once.

    Private: `_flatten_layers`.
    Public: `Model.layers`, which has no layers that are inside of layers.
    """
    layers: list[Any] = model._flatten_layers()
    return layers


def outside_replicas(update: Callable[..., None], strategy: Any, *args: Any) -> None:
    """Call `update(strategy, *args)` once for all replicas of a tf.distribute strategy.

    Private: `tf.__internal__.distribute.interim.maybe_merge_call`, with which Keras' optimizers
    update. It calls directly where the strategy allows that.
    Public: `ReplicaContext.merge_call`, which fails for these strategies in a compiled step.
    """
    import tensorflow as tf

    tf.__internal__.distribute.interim.maybe_merge_call(update, strategy, *args)
