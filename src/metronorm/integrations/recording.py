"""What the callbacks, trackers and loggers of all frameworks have in common."""

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
    """A run, and at most one training at a time that is recorded in it.

    Args:
        directory: the run's directory; None: another object has the run.
        resume: continue an existing run in any case; ticks count on from its last one.
        name: the run's name; by default the directory's name.
        config: values for the run's config, beside the framework's own values.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        resume: bool = False,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = None if directory is None else Path(directory).absolute()
        self._resume = resume
        self._run_name = name
        self._config = dict(config or {})
        self._steps: Steps | None = None

    @property
    def clock(self) -> Clock:
        """The clock of the present training, for metrics and phases of your own.

        Raises:
            ConfigError: no training is recorded at present.
        """
        if self._steps is None:
            raise ConfigError("a callback has a clock while it trains", got="no training")
        return self._steps.clock

    def _record(
        self, *, start: int = 0, config: Mapping[str, Any] | None = None, again: bool = False
    ) -> Steps:
        """Open the run for a training that has made `start` updates already; see `Steps`.

        `config` is the whole config; callers merge `self._config` into it.
        """
        assert self.directory is not None
        self._steps = Steps(
            self,
            self.directory,
            start=start,
            resume=self._resume,
            again=again,
            config=config,
            name=self._run_name,
        )
        self._resume = True  # from now on it is this object's own run
        return self._steps

    def _phase(self, name: str | None) -> None:
        if self._steps is not None:
            self._steps.phase(name)

    def _assign_elapsed(self, name: str | None) -> None:
        if self._steps is not None:
            self._steps.assign_elapsed(name)

    def _close(self, error: BaseException | None = None) -> None:
        if self._steps is not None:
            self._steps.close(error)
            self._steps = None
