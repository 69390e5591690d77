"""Ticks for Keras: gradient descent with momentum, and the accumulated gradient as only slot."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

import keras
from keras import ops

from metronorm.errors import ConfigError
from metronorm.keras import _private
from metronorm.keras.checks import (
    checked_clips,
    checked_count,
    checked_number,
    checked_rate,
    if_given,
)
from metronorm.keras.variables import native, slot_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Scaling = Literal["sum", "mean", "amplified"]
Rate = Any  # a number, a schedule, or a function without arguments

SCALINGS = ("sum", "mean", "amplified")
BACKEND = keras.backend.backend()


@keras.saving.register_keras_serializable(package="metronorm")
class Ticks(_private.BeatOptimizer):
    """Momentum over ticks: `c = momentum * c + (mean of the window's gradients)`; `p -= lr * c`.

    `c`, the accumulated gradient, is the only slot. Every beat is added to it, and after a tick it
    is multiplied by the momentum instead of set to zero. Keras' own optimizers keep a gradient
    accumulator beside the momentum. At a constant learning rate the updates are those of
    `keras.optimizers.SGD` (heavy ball: Polyak, 1964). Where the rate changes, SGD's velocity
    contains the old rate and `c` does not, as in `metronorm.optim.Ticks`.

    With the beats of `metronorm.keras.windows`, a window makes the update of the one big batch, to
    rounding. Without them it makes Keras' update: the mean of the beats' means.

    Args:
        learning_rate: a number, a `LearningRateSchedule` or a function without arguments. Schedules
            count ticks (`iterations`), not beats.
        momentum: the share of `c` that stays after a tick, in [0, 1).
        scaling: how the update is scaled. "sum": `lr * c`. "mean": `lr * (1 - momentum) * c`.
            "amplified": `lr * c / (1 - momentum)`.
        weight_decay: decoupled weight decay, as everywhere in Keras: before the update, a tick
            shrinks the variables by `lr * weight_decay` (Loshchilov & Hutter, 2019).
        gradient_accumulation_steps: the number of beats in a tick; None means 1.
        clipnorm: as in Keras; only with one beat in a tick.
        clipvalue: as in Keras; only with one beat in a tick.
        global_clipnorm: as in Keras; only with one beat in a tick.
        use_ema: as in Keras; the averages are updated at ticks.
        ema_momentum: as in Keras.
        ema_overwrite_frequency: as in Keras, counted in ticks.
        loss_scale_factor: as in Keras: the factor that the loss was multiplied by.
        name: the optimizer's name.

    Slots are float32 for half-precision variables, else they have the variable's dtype. A variable
    without a gradient in a beat does not change in this beat, as in Keras; if the beat is the last
    one of a window, the variable waits for the next tick. Constraints are applied after every beat,
    as in Keras; variables that meet them do not change by that.

    Raises:
        ConfigError: a hyper-parameter cannot work.
    """

    gradient_accumulation_steps: int | None

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        momentum: float = 0.9,
        *,
        scaling: Scaling = "sum",
        weight_decay: float | None = None,
        gradient_accumulation_steps: int | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        name: str = "ticks",
    ) -> None:
        if scaling not in SCALINGS:
            names = ", ".join(map(repr, SCALINGS))
            raise ConfigError(f"scaling must be one of {names}", got=repr(scaling))
        momentum = checked_number("momentum", momentum, below=1)
        steps = if_given(checked_count, "gradient_accumulation_steps", gradient_accumulation_steps)
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        super().__init__(
            learning_rate=checked_rate(learning_rate),
            weight_decay=if_given(checked_number, "weight_decay", weight_decay),
            use_ema=use_ema,
            ema_momentum=checked_number("ema_momentum", ema_momentum),
            ema_overwrite_frequency=if_given(
                checked_count, "ema_overwrite_frequency", ema_overwrite_frequency
            ),
            loss_scale_factor=if_given(checked_number, "loss_scale_factor", loss_scale_factor),
            gradient_accumulation_steps=None if steps == 1 else steps,
            name=name,
            **checked_clips(clips, steps or 1),
        )
        self.momentum, self.scaling = momentum, scaling
        self._set_schedule(learning_rate)
        if BACKEND == "tensorflow":
            import tensorflow as tf

            self._strategy = tf.distribute.get_strategy()

    def build(self, variables: Sequence[Any]) -> None:
        """Make the slots, filled with zeros: one for each variable."""
        if self.built:
            return
        # With `gradient_accumulation_steps` Keras would make accumulators beside our slots.
        steps = self.gradient_accumulation_steps
        self.gradient_accumulation_steps = None
        try:
            super().build(variables)
        finally:
            self.gradient_accumulation_steps = steps
        _private.set_accumulators(self, [self._add_slot(variable) for variable in variables])

    def _add_slot(self, variable: Any) -> Any:
        is_overwritten = getattr(variable, "overwrite_with_gradient", False)  # scales of float8
        if is_overwritten and not self.gradient_accumulation_steps:
            return None
        path = str(getattr(variable, "path", variable.name)).replace("/", "_").replace(":", "_")

        def add() -> Any:
            return self.add_variable(
                shape=variable.shape,
                dtype=slot_dtype(variable),
                layout=_private.layout(variable),
                name=f"{path}_accumulated_gradient",
            )

        if BACKEND == "tensorflow":
            with self._strategy.extended.colocate_vars_with(native(variable)):
                return add()
        return add()

    def slot(self, variable: Any) -> Any:
        """Return the accumulated gradient of a variable, a `keras.Variable` of the same shape."""
        return _private.accumulator(self, variable)

    @property
    def scale(self) -> float:
        """The factor that `scaling` gives to the learning rate."""
        kept = 1 - self.momentum
        return {"sum": 1.0, "mean": kept, "amplified": 1 / kept}[self.scaling]

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the next tick. Schedules count ticks, where Keras' count beats."""
        if self._schedule is not None:
            return self._schedule(self.iterations)
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: Rate) -> None:
        keras.optimizers.Optimizer.learning_rate.fset(self, rate)
        self._set_schedule(rate)

    def _set_schedule(self, rate: Rate) -> None:
        is_schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
        self._schedule = rate if is_schedule else None

    def apply_beat(self, grads: list[Any], variables: list[Any]) -> None:
        """Add the gradients of one beat to the slots; move the variables if it was the last one."""
        if not self.gradient_accumulation_steps:
            grads = _private.clip(self, grads)
        if BACKEND == "tensorflow":
            from metronorm.keras import ticks_tensorflow

            ticks_tensorflow.apply(self, grads, variables)
        elif BACKEND == "torch":
            from metronorm.keras import ticks_torch

            ticks_torch.apply(self, grads, variables)
        else:
            self._apply_without_branch(grads, variables)

    def _apply_without_branch(self, grads: list[Any], variables: list[Any]) -> None:
        """Do one beat so that `jax.jit` fuses it to one sweep over each variable."""
        steps = self.gradient_accumulation_steps or 1
        is_last_beat = ops.equal((_private.beat_count(self) + 1) % steps, 0)
        rate = self.learning_rate

        def at_tick(new: Any, old: Any) -> Any:
            return new if steps == 1 else ops.where(is_last_beat, new, old)

        for gradient, variable in zip(grads, variables, strict=True):
            slot = self.slot(variable)
            total = slot.value + ops.cast(gradient, slot.dtype) / steps
            moved = self.moved(variable, total, rate)
            variable.assign(at_tick(moved, variable.value))
            slot.assign(at_tick(total * self.momentum, total))
        if self.use_ema:
            self._average(at_tick)

    def moved(self, variable: Any, total: Any, rate: Any) -> Any:
        """Return a variable's value after a tick.

        Args:
            variable: a variable of the optimizer.
            total: its accumulated gradient, of the same shape.
            rate: the learning rate.

        Returns:
            A tensor of the variable's dtype. The arithmetic is in the dtype of `total` and rounded
            once.
        """
        dtype = keras.backend.standardize_dtype(total.dtype)
        rate = ops.cast(rate, dtype)
        value = ops.cast(native(variable), dtype)
        if self.weight_decay and _private.has_weight_decay(self, variable):
            value = value * (1 - rate * self.weight_decay)
        return ops.cast(value - (rate * self.scale) * total, variable.dtype)

    def _average(self, at_tick: Callable[[Any, Any], Any]) -> None:
        averages = _private.moving_averages(self)
        pairs = [
            (variable, average)
            for variable, average in zip(_private.built_for(self), averages, strict=True)
            if average is not None
        ]
        before = [average.value for _, average in pairs]
        _private.update_moving_averages(self)
        frequency = self.ema_overwrite_frequency
        for (variable, average), old in zip(pairs, before, strict=True):
            average.assign(at_tick(average.value, old))
            if frequency:
                is_overwritten = ops.equal((self.iterations + 1) % frequency, 0)
                new = ops.where(is_overwritten, average.value, variable.value)
                variable.assign(at_tick(new, variable.value))

    def stateless_apply(
        self, optimizer_variables: list[Any], grads: list[Any], trainable_variables: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Do what `apply` does, for values that are given; these values do not change.

        Returns:
            New values of the trainable variables, and of the optimizer's own variables.
        """
        if BACKEND == "torch":  # a beat on torch works in place
            optimizer_variables = [ops.copy(value) for value in optimizer_variables]
            trainable_variables = [ops.copy(value) for value in trainable_variables]
        result: tuple[list[Any], list[Any]] = super().stateless_apply(
            optimizer_variables, grads, trainable_variables
        )
        return result

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that `from_config` makes the same optimizer from, without state."""
        return {**super().get_config(), "momentum": self.momentum, "scaling": self.scaling}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Ticks:
        """Make an optimizer from what `get_config` returned.

        Raises:
            ConfigError: an argument is not known, or cannot work.
        """
        known = inspect.signature(cls.__init__).parameters.keys() - {"self"}
        if unknown := sorted(config.keys() - known):
            raise ConfigError(
                f"the config of {cls.__name__} must hold arguments that it has",
                got=", ".join(unknown),
                fix="the version of metronorm it was saved with",
            )
        made: Ticks = super().from_config(dict(config), custom_objects)
        return made
