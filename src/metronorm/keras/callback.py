"""A callback that records the ticks of Keras' `fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from metronorm.integrations.recording import Recording
from metronorm.integrations.steps import DATA

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


# whether Keras fetches a batch inside the step, after `on_train_batch_begin`
_FETCHES_INSIDE = keras.backend.backend() in ("tensorflow", "jax")


class TickCallback(Recording, keras.callbacks.Callback):  # type: ignore[misc]
    """Records every batch as a tick: `model.fit(..., callbacks=[TickCallback(directory)])`.

    Args:
        directory: the run's directory. An existing run is continued, as a new attempt, if the
            model's optimizer has made updates already or this callback is used for a second `fit`.
        resume: continue an existing run in any case; ticks count on from its last one.
        name: the run's name; by default the directory's name.
        config: values for the run's config, beside the optimizer's and a few values of `fit`.

    Ticks have the numbers of the optimizer's iterations. If these were not saved, ticks are counted
    from the epochs before `initial_epoch`. If the optimizer accumulates gradients, the batches that
    it accumulates are the beats of one tick. With `steps_per_execution=N` a tick is one execution,
    and the tick number grows by N.

    Phases: `data`, `step` (forward, backward and update, as Keras has no hook between them; with
    JAX and TensorFlow also the wait for the batch, which is fetched inside) and `evaluate`.
    The time of callbacks after this one counts to `data`, so this should be the last in the list.

    Metrics are what Keras reports: its `loss` and the others are means *over the epoch so far*, not
    over the batch. What Keras reports at an epoch's end, such as `val_loss`, is on record under the
    epoch's last tick. `epoch` counts from 0. An evaluation outside of `fit` is not recorded.

    A tick is on record when its batch is over. The last tick of an epoch is on record when the next
    one begins; so is every tick if Keras does not know the number of batches. Keras does not report
    exceptions to callbacks: the end of the run is written when the callback trains again, when it
    is collected as garbage, or when the process ends.

    Raises:
        RunError: what `Clock` raises, when the first epoch begins.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        resume: bool = False,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        keras.callbacks.Callback.__init__(self)
        Recording.__init__(self, directory, resume=resume, name=name, config=config)
        self._batches_per_tick = 1
        self._updates_per_tick = 1
        self._beats = 0
        self._epoch = 0
        # When a batch began, if there is one: set where Keras calls `on_train_batch_begin` before
        # it knows whether the data have ended; nanoseconds.
        self._possible_begin_ns: int | None = None

    def set_model(self, model: Any) -> None:
        """Remember the model as it is: reading `self.model` copies the state of JAX each time."""
        super().set_model(model)
        self._trained_model = model

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Close the run that an earlier training left open because of an exception."""
        self._possible_begin_ns = None
        if self._steps is not None:
            self._steps.abandon()
            self._steps = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Open the run in the first epoch: by now all callbacks have restored what they restore."""
        self._epoch = epoch
        if self._steps is None:
            self._open(epoch)
        else:
            self._steps.assign_elapsed(None)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a tick, or its next beat."""
        if self._steps is None:
            return
        if not self._steps.running:
            if self.params.get("steps") is None and _FETCHES_INSIDE:
                # If there is no batch, what is logged next belongs to the tick before.
                self._possible_begin_ns = self._steps.time.read()
                return
            self._begin()
        self._steps.phase("step")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Finish a beat, and the tick if it was the last one."""
        if self._steps is None:
            return
        if self._possible_begin_ns is not None:
            self._begin(at=self._possible_begin_ns)
            self._possible_begin_ns = None
            self._steps.assign_elapsed("step")
        self._beats += self._updates_per_tick
        if self._beats < self._batches_per_tick:
            self._steps.phase(DATA)
            return
        self._steps.end_work(beats=self._beats)
        self._beats = 0
        self._steps.log({"epoch": self._epoch} | (logs or {}))
        batches = self.params.get("steps")
        is_stopping = getattr(self._trained_model, "stop_training", False)
        if batches is not None and batch + 1 < batches and not is_stopping:
            self._steps.write()  # Keras reports nothing more about a tick inside of an epoch

    def _begin(self, *, at: int | None = None) -> None:
        assert self._steps is not None
        self._steps.begin(self._steps.clock.tick + self._updates_per_tick, at=at)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin the phase `evaluate`; the time since the last call was its preparation."""
        self._assign_elapsed("evaluate")
        self._phase("evaluate")

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """End the phase `evaluate`."""
        self._phase(DATA)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log what Keras reports about the epoch."""
        self._possible_begin_ns = None
        if self._steps is not None:
            self._steps.log(logs or {})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the run."""
        self._close()

    def _open(self, epoch: int) -> None:
        model = self.model
        optimizer = getattr(model, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # inside LossScaleOptimizer
        self._batches_per_tick = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        self._updates_per_tick = getattr(model, "steps_per_execution", None) or 1
        start = 0 if optimizer is None else int(optimizer.iterations)
        batches = epoch * (self.params.get("steps") or 0)
        self._record(
            start=start or batches // self._batches_per_tick,
            config=_fit_config(model, optimizer, self.params) | self._config,
        )
        self._beats = 0


def _fit_config(model: Any, optimizer: Any, params: dict[str, Any]) -> dict[str, Any]:
    return {
        "backend": keras.backend.backend(),
        "model": type(model).__name__,
        "parameters": model.count_params() if model.built else None,
        "epochs": params.get("epochs"),
        "steps": params.get("steps"),
        "optimizer": None if optimizer is None else optimizer.get_config(),
    }
