"""A callback that records the ticks of Keras' `fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from metronorm.integrations.recording import Recording
from metronorm.integrations.steps import DATA

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


_FETCHES_INSIDE = keras.backend.backend() in ("tensorflow", "jax")  # a batch, inside the step


class TickCallback(Recording, keras.callbacks.Callback):  # type: ignore[misc]
    """Records every batch as a tick: `model.fit(..., callbacks=[TickCallback(directory)])`.

    Args:
        directory: the run. New, or one that is continued: as a new attempt, when the model's
            optimizer has made updates already, or this callback is used for a second `fit`.
        resume: continue the run in any case; ticks count on from its last one.
        name: what to call the run; the directory's name by default.
        config: what to put into the run's config beside the optimizer's and a few values of `fit`.

    Ticks are numbered as the optimizer's iterations (where those were not saved: from the epochs
    before `initial_epoch`). An optimizer that accumulates gradients makes one tick of so many
    batches, its beats; with `steps_per_execution` a tick is one execution, and counts as so many.

    Phases: `data`, `step` (forward, backward and update: Keras has no hook between; with JAX and
    TensorFlow also the wait for the batch, which is fetched inside) and `evaluate`.
    What other callbacks do after this one counts to `data`, so it should be the last of the list.

    Metrics are what Keras reports: its `loss` and the others are means *over the epoch so far*, not
    of the batch. What is told at an epoch's end, `val_loss` and the like, is on record under the
    epoch's last tick. `epoch` counts from 0. An evaluation outside of `fit` is not recorded.

    A tick is on record when its batch is over; the last of an epoch, and every one where Keras does
    not know how many there are, when the next one begins. Keras tells no callback of an exception:
    the end of the run is written when the callback trains again, goes, or the process ends.

    Raises:
        RunError: when the first epoch begins, what `Clock` raises.
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
        self._perhaps: int | None = None  # when a batch began, if there was one

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Close what an exception left open."""
        self._perhaps = None
        if self._steps is not None:
            self._steps.abandon()
            self._steps = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Open the run, if it is the first epoch: now every callback has restored what it does."""
        self._epoch = epoch
        if self._steps is None:
            self._open(epoch)
        else:
            self._steps.spent(None)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a tick, or its next beat."""
        if self._steps is None:
            return
        if not self._steps.running:
            if self.params.get("steps") is None and _FETCHES_INSIDE:
                # there may be no batch, and what is said next is then of the tick before
                self._perhaps = self._steps.time.read()
                return
            self._begin()
        self._steps.phase("step")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """A beat is over, and perhaps the tick."""
        if self._steps is None:
            return
        if self._perhaps is not None:
            self._begin(at=self._perhaps)
            self._perhaps = None
            self._steps.spent("step")
        self._beats += self._updates_per_tick
        if self._beats < self._batches_per_tick:
            self._steps.phase(DATA)
            return
        self._steps.done(beats=self._beats)
        self._beats = 0
        self._steps.log({"epoch": self._epoch} | (logs or {}))
        of_epoch = self.params.get("steps")
        stopping = getattr(self._model, "stop_training", False)  # `self.model` copies JAX's state
        if of_epoch is not None and batch + 1 < of_epoch and not stopping:
            self._steps.write()  # in the midst of an epoch nothing more is said of a tick

    def _begin(self, *, at: int | None = None) -> None:
        assert self._steps is not None
        self._steps.begin(self._steps.clock.tick + self._updates_per_tick, at=at)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """An evaluation begins, and was prepared."""
        if self._steps is not None:
            self._steps.spent("evaluate")
            self._steps.phase("evaluate")

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """An evaluation is over."""
        if self._steps is not None:
            self._steps.phase(DATA)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put down what is known of the epoch."""
        self._perhaps = None
        if self._steps is not None:
            self._steps.log(logs or {})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the run."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _open(self, epoch: int) -> None:
        model = self.model
        optimizer = getattr(model, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
        self._batches_per_tick = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        self._updates_per_tick = getattr(model, "steps_per_execution", None) or 1
        start = 0 if optimizer is None else int(optimizer.iterations)
        batches = epoch * (self.params.get("steps") or 0)
        self._record(
            start=start or batches // self._batches_per_tick,
            config=_fit_config(model, optimizer, self.params) | dict(self._config),
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
