"""A tracker that records the ticks of a loop under `accelerate.Accelerator`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import MissingDependencyError
from metronorm.integrations.steps import Steps

try:
    from accelerate.tracking import GeneralTracker
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "accelerate":
        raise
    raise MissingDependencyError(
        "this needs the package accelerate", fix="pip install 'accelerate>=1.10'"
    ) from None

if TYPE_CHECKING:
    import os

    from metronorm.clock import Clock


class TickTracker(GeneralTracker):  # type: ignore[misc]
    """Records what is logged: `Accelerator(log_with=TickTracker(directory))`.

    Args:
        directory: the run.
        resume: continue the run that is there, as a new attempt.
        name: what to call the run; the directory's name by default.

    A tracker hears of a loop only when something is logged. So every *logged* step is a tick, with
    the number that it was logged under, and its time is that since the tick before: log every step
    for a record of every update, with its loss. Several `accelerator.log` of one step are one tick,
    on record once a later step is logged. Without a step every call is a tick of its own. What is
    logged of an earlier step becomes an event `logged`, of which the first warns, and so does what
    is no number. Numbers in a dict, `{"accuracy": {"top1": 0.9}}`, are metrics `accuracy/top1`.

    Phases and beats cannot be seen from here. The loop is yours, though, and `clock.ticks(loader)`
    of a `Clock` sees both. Accelerate logs on the main process: other ranks leave no tape.

    Raises:
        RunError: when the first step is logged, what `Clock` raises.
    """

    name = "metronorm"
    requires_logging_directory = False

    def __init__(
        self, directory: str | os.PathLike[str], *, resume: bool = False, name: str | None = None
    ) -> None:
        super().__init__()
        self.directory = Path(directory).absolute()
        self._resume = resume
        self._name = name
        self._config: dict[str, Any] = {}
        self._steps: Steps | None = None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Put the config that `init_trackers` was given into the run, which begins now."""
        self._config = values
        self._open()

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Record the values of a step.

        Raises:
            ConfigError: a step that is no integer of 64 bits.
        """
        self._open().log_step(step, values)

    @property
    def tracker(self) -> Clock:
        """The clock."""
        return self._open().clock

    def finish(self) -> None:
        """Close the run; what is logged later continues it as a new attempt."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _open(self) -> Steps:
        if self._steps is None:
            self._steps = Steps(
                self, self.directory, resume=self._resume, config=self._config, name=self._name
            )
            self._resume = True  # from now on it is this tracker's own run
        return self._steps
