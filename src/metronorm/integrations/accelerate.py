"""A tracker that records the ticks of a loop under `accelerate.Accelerator`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.integrations._packages import needs
from metronorm.integrations.recording import Recording

with needs("accelerate", fix="pip install 'accelerate>=1.10'"):
    from accelerate.tracking import GeneralTracker

if TYPE_CHECKING:
    import os

    from metronorm.clock import Clock
    from metronorm.integrations.steps import Steps


class TickTracker(Recording, GeneralTracker):  # type: ignore[misc]
    """Records what is logged: `Accelerator(log_with=TickTracker(directory))`.

    Args:
        directory: the run's directory.
        resume: continue the run that is there, as a new attempt.
        name: the run's name; by default the directory's name.

    Accelerate calls a tracker only when something is logged. So every *logged* step is a tick with
    the step's number, and its time is the time since the tick before. For a record of every update
    with its loss, log every step. Several calls of `accelerator.log` for one step make one tick; it
    is on record when a later step is logged. Without a step every call is a tick of its own. Values
    of an earlier step become an event `logged`, and the first such event warns. So do values that
    are not numbers. Numbers in a dict, `{"accuracy": {"top1": 0.9}}`, are metrics `accuracy/top1`.

    A tracker cannot see phases and beats. The loop is yours, though, and `clock.ticks(loader)` of a
    `Clock` sees both. Accelerate logs on the main process, so other ranks have no record.

    Raises:
        RunError: what `Clock` raises, when the first step is logged.
    """

    name = "metronorm"
    requires_logging_directory = False

    def __init__(
        self, directory: str | os.PathLike[str], *, resume: bool = False, name: str | None = None
    ) -> None:
        Recording.__init__(self, directory, resume=resume, name=name)
        GeneralTracker.__init__(self)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Open the run, with the config that `init_trackers` was given."""
        self._config = values
        self._open()

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Record the values of a step.

        Raises:
            ConfigError: the step is not an integer of 64 bits.
        """
        self._open().log_step(step, values)

    @property
    def tracker(self) -> Clock:
        """The clock; opens the run."""
        return self._open().clock

    def finish(self) -> None:
        """Close the run; if more is logged later, it is continued as a new attempt."""
        self._close()

    def _open(self) -> Steps:
        return self._steps or self._record(config=self._config)
