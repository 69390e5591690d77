"""What the callbacks of all frameworks have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError
from metronorm.integrations.steps import Steps

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from metronorm.clock import Clock


class Recording:
    """A run, and one training at a time.

    Args:
        directory: the run; None: it is another's.
        resume: continue the run in any case; ticks count on from its last one.
        name: what to call the run; the directory's name by default.
        config: what to put into the run's config beside the framework's own values.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        resume: bool,
        name: str | None,
        config: Mapping[str, Any] | None,
    ) -> None:
        self.directory = None if directory is None else Path(directory).absolute()
        self._resume = resume
        self._name = name
        self._config = config or {}
        self._steps: Steps | None = None

    @property
    def clock(self) -> Clock:
        """The clock of the training that runs, for metrics and phases of your own.

        Raises:
            ConfigError: no training runs.
        """
        if self._steps is None:
            raise ConfigError("a callback has a clock while it trains", got="no training")
        return self._steps.clock

    def _record(self, *, start: int, config: Mapping[str, Any], again: bool = False) -> Steps:
        """Open the run for a training that has `start` updates behind it; see `Steps`."""
        assert self.directory is not None
        self._steps = Steps(
            self,
            self.directory,
            start=start,
            resume=self._resume,
            again=again,
            config=config,
            name=self._name,
        )
        self._resume = True  # from now on it is this callback's own run
        return self._steps
