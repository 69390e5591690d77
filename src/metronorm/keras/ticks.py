"""Ticks for Keras: gradient descent with momentum whose only slot is the accumulated gradient."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

import keras
from keras import ops

from metronorm.errors import ConfigError
from metronorm.keras.checks import (
    checked_clips,
    checked_count,
    checked_number,
    checked_rate,
    if_given,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Scaling = Literal["sum", "mean", "amplified"]
Rate = Any  # a number, a schedule, or something to call without arguments

SCALINGS = ("sum", "mean", "amplified")
BACKEND = keras.backend.backend()


@keras.saving.register_keras_serializable(package="metronorm")
class Ticks(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Momentum over ticks: `c = momentum * c + (mean of the window's gradients)`; `p -= lr * c`.

    `c`, the accumulated gradient, is the only slot: every beat is added to it, and after a tick it
    is multiplied by the momentum instead of zeroed. Keras' own optimizers keep a gradient
    accumulator beside the momentum. The updates are those of `keras.optimizers.SGD` at a learning
    rate that stays (heavy ball: Polyak, 1964); where it changes, SGD's velocity remembers the old
    one and `c` does not, as in `metronorm.optim.Ticks`.

    With the beats of `metronorm.keras.windows`, a window makes the update of the one big batch, to
    rounding; with beats as they come it is Keras' mean of the beats' means.

    Args:
        learning_rate: a number, a `LearningRateSchedule` or something to call. Schedules count
            ticks (`iterations`), not beats.
        momentum: share of `c` that stays after a tick, in [0, 1).
        scaling: of the update. "sum": `lr * c`. "mean": `lr * (1 - momentum) * c`. "amplified":
            `lr * c / (1 - momentum)`.
        weight_decay: decoupled, as everywhere in Keras: a tick shrinks the variables by
            `lr * weight_decay` first (Loshchilov & Hutter, 2019).
        gradient_accumulation_steps: beats in a tick; None and 1 are one.
        clipnorm: of Keras, as `global_clipnorm` and `clipvalue`; only with one beat in a tick.
        clipvalue: see `clipnorm`.
        global_clipnorm: see `clipnorm`.
        use_ema: of Keras, as what follows; averages are updated at ticks.
        ema_momentum: see `use_ema`.
        ema_overwrite_frequency: in ticks.
        loss_scale_factor: of Keras: what the loss was multiplied by.
        name: of the optimizer.

    Slots are in float32 for half-precision variables, else of their dtype. A variable that has no
    gradient in a beat is left alone, as Keras does; in the last beat of a window, until the next
    tick. Constraints are applied after every beat, as Keras does: nothing changes for variables
    that meet them.

    Raises:
        ConfigError: hyper-parameters that cannot work.
    """

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
            told = ", ".join(map(repr, SCALINGS))
            raise ConfigError(f"scaling must be one of {told}", got=repr(scaling))
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

    def build(self, variables: Sequence[Any]) -> None:
        """Make the slots, one per variable, filled with zeros."""
        if self.built:
            return
        # Keras' accumulators would be made beside ours; in their place, ours also serve what Keras
        # does with variables that are overwritten with their gradients.
        steps = vars(self)["gradient_accumulation_steps"]
        self.gradient_accumulation_steps: int | None = None
        try:
            super().build(variables)
        finally:
            self.gradient_accumulation_steps = steps
        self._accumulated_gradients = [self._add_slot(variable) for variable in variables]

    def _add_slot(self, variable: Any) -> Any:
        if not self.gradient_accumulation_steps and self._overwrite_variable_with_gradient(
            variable
        ):
            return None
        path = str(getattr(variable, "path", variable.name)).replace("/", "_").replace(":", "_")

        def add() -> Any:
            return self.add_variable(
                shape=variable.shape,
                dtype=slot_dtype(variable),
                layout=getattr(variable, "_layout", None),
                name=f"{path}_accumulated_gradient",
            )

        if BACKEND == "tensorflow":
            with self._distribution_strategy.extended.colocate_vars_with(native(variable)):
                return add()
        return add()

    def slot(self, variable: Any) -> Any:
        """The accumulated gradient of a variable: a `keras.Variable` of the variable's shape."""
        return self._accumulated_gradients[self._get_variable_index(variable)]

    @property
    def scale(self) -> float:
        """What `scaling` multiplies the learning rate by."""
        stays = 1 - self.momentum
        return {"sum": 1.0, "mean": stays, "amplified": 1 / stays}[self.scaling]

    def _get_current_learning_rate(self) -> Any:
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)  # Keras gives it the number of beats
        return super()._get_current_learning_rate()

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: Any) -> None:
        variables = list(trainable_variables)
        if not self.gradient_accumulation_steps:
            grads = self._clip_gradients(grads)
        if BACKEND == "tensorflow":
            from metronorm.keras import ticks_tensorflow

            ticks_tensorflow.apply(self, grads, variables)
        elif BACKEND == "torch":
            from metronorm.keras import ticks_torch

            ticks_torch.apply(self, grads, variables)
        else:
            self._apply(grads, variables)

    def _apply(self, grads: list[Any], variables: list[Any]) -> None:
        """One beat, without a branch: what `jax.jit` fuses to one sweep over each variable."""
        steps = self.gradient_accumulation_steps or 1
        now = ops.equal((self._iterations + 1) % steps, 0)
        rate = self.learning_rate

        def at_tick(new: Any, old: Any) -> Any:
            return new if steps == 1 else ops.where(now, new, old)

        for gradient, variable in zip(grads, variables, strict=True):
            slot = self.slot(variable)
            total = slot.value + ops.cast(gradient, slot.dtype) / steps
            moved = self.moved(variable, total, rate)
            variable.assign(at_tick(moved, variable.value))
            slot.assign(at_tick(total * self.momentum, total))
        if self.use_ema:
            self._average(at_tick)

    def moved(self, variable: Any, total: Any, rate: Any) -> Any:
        """A variable after a tick with an accumulated gradient, rounded once to its dtype."""
        dtype = keras.backend.standardize_dtype(total.dtype)
        rate = ops.cast(rate, dtype)
        value = ops.cast(native(variable), dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            value = value * (1 - rate * self.weight_decay)
        return ops.cast(value - (rate * self.scale) * total, variable.dtype)

    def _average(self, at_tick: Callable[[Any, Any], Any]) -> None:
        pairs = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        known = [(variable, average) for variable, average in pairs if average is not None]
        before = [average.value for _, average in known]
        self._update_model_variables_moving_average(self._trainable_variables)
        frequency = self.ema_overwrite_frequency
        for (variable, average), old in zip(known, before, strict=True):
            average.assign(at_tick(average.value, old))
            if frequency:
                last = ops.equal((self.iterations + 1) % frequency, 0)
                new = ops.where(last, average.value, variable.value)
                variable.assign(at_tick(new, variable.value))

    def stateless_apply(
        self, optimizer_variables: list[Any], grads: list[Any], trainable_variables: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """`apply` for given values, which stay as they are: returns variables and own variables."""
        if BACKEND == "torch":  # works in place
            optimizer_variables = [ops.copy(value) for value in optimizer_variables]
            trainable_variables = [ops.copy(value) for value in trainable_variables]
        result: tuple[list[Any], list[Any]] = super().stateless_apply(
            optimizer_variables, grads, trainable_variables
        )
        return result

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same optimizer of, without its state."""
        return {**super().get_config(), "momentum": self.momentum, "scaling": self.scaling}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Ticks:
        """An optimizer from what `get_config` returned.

        Raises:
            ConfigError: arguments that are not known, or cannot work.
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


def native(variable: Any) -> Any:
    """The backend's own variable or tensor."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def slot_dtype(variable: Any) -> str:
    """Of a variable's accumulated gradient: float32 for half precision, else its own."""
    dtype: str = keras.backend.standardize_dtype(variable.dtype)
    return "float32" if dtype in ("float16", "bfloat16") or "float8" in dtype else dtype
