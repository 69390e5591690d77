"""What a training measures: the validation set now and then, the test set once, at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError, DataError, MetronormError
from metronorm.train.batches import iterate
from metronorm.train.evaluate import evaluate, of_rank

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.clock import Clock
    from metronorm.train.preparing import Preparation
    from metronorm.train.stop import Stop


class Measuring:
    """Evaluates the model of a training, and its averages beside it.

    Args:
        ready: the model, its task and its averages.
        stop: a signal ends a running evaluation, which then counts as not made.
        found: the checkpoint that the training goes on from, with its newest measures.

    Attributes:
        measures: of the newest evaluation, by name; empty before the first.
        test: of the test set, by name; empty until it has been read.
    """

    def __init__(self, ready: Preparation, stop: Stop, found: Checkpoint | None = None) -> None:
        self._step, self._averages, self._stop = ready.step, ready.averages, stop
        self._task, self._config = ready.step.task, ready.step.config
        self._world = ready.world
        state = found.state if found else {}
        self.measures: dict[str, float] = dict(state.get("measures") or {})
        self.test: dict[str, float] = dict(state.get("test") or {})

    def evaluate(self, clock: Clock) -> float | None:
        """Measure the validation set and log it.

        Returns:
            The score, the lower the better; None without a validation set, if a signal came, or
            before there is the average whose measure decides.

        Raises:
            ConfigError: the measure that decides was not measured.
        """
        if self._task.validation is None:
            return None
        with self._world.phase(clock, "evaluate"):
            measures = self._measure(self._task.validation, "validation", clock.tick)
        if self._stop.signal:
            return None
        self.measures = measures
        clock.log(**{f"validation_{name}": value for name, value in measures.items()})
        best = self._config.best
        if best not in measures:
            if best.removesuffix("_last") in measures:  # of an average that has not begun yet
                return None
            raise ConfigError(
                "best must be one of the measures, whatever the batch",
                got=f"{best!r}, which this evaluation has not measured",
                fix=f"one of {', '.join(measures)}",
            )
        value = measures[best]
        return -value if self._config.best_mode == "max" else value

    def read_test(self, clock: Clock) -> None:
        """Measure the test set, if there is one, and log it; at the planned end only."""
        if self._task.test is None or self._stop.signal:
            return
        with self._world.phase(clock, "evaluate"):
            try:
                measures = self._measure(self._task.test, "test", clock.tick)
            except MetronormError as error:
                raise DataError(f"of the test set: {error.must}", got=error.got) from None
        if not self._stop.signal:
            self.test = measures
            clock.log(**{f"test_{name}": value for name, value in measures.items()})
            clock.event("test", **measures)

    def _measure(self, source: Any, name: str, tick: int) -> dict[str, float]:
        """Of the model, and of the averages of its weights that there are after this tick."""
        measures = self._measure_once(batches_of(source, name))
        for kind in self._averages.ready(tick):
            with self._averages.in_place(kind):
                averaged = self._measure_once(batches_of(source, name))
            measures |= {f"{name}_{kind}": value for name, value in averaged.items()}
        return measures

    def _measure_once(self, batches: Iterable[Any]) -> dict[str, float]:
        watched = self._stop.until_signal(of_rank(iterate(batches), self._world))
        try:
            return evaluate(
                self._step.model, watched, self._step.sums, self._task.count, self._world
            )
        except DataError:
            if self._stop.signal:  # it came before the first batch
                return {}
            raise


def batches_of(source: Any, name: str) -> Iterable[Any]:
    """What to evaluate on, begun anew.

    Args:
        source: an iterable of batches, or a function that makes one.
        name: of the task's field, for the error.

    Raises:
        ConfigError: it is, or makes, something else.
    """
    found: Iterable[Any] = source() if callable(source) else source
    if not hasattr(found, "__iter__"):
        raise ConfigError(
            f"a task's {name} must be batches", got=f"a function that returns {found!r}"
        )
    return found
