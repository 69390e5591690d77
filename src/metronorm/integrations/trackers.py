"""The trackers that a training can be mirrored to; each is imported when a mirror is made.

| name | a run is | a resumed run |
| --- | --- | --- |
| tensorboard | event files in the folder `tensorboard` of the run | goes on there; later steps of before are marked as replaced |
| wandb | a run of the project `$WANDB_PROJECT`, else `metronorm`, with the id of ours | goes on; steps that are there stay |
| trackio | a run of the project `$TRACKIO_PROJECT`, else `metronorm` | goes on; steps that are there stay |
"""  # noqa: E501

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from metronorm.errors import RunError
from metronorm.integrations._packages import needs
from metronorm.integrations.event_protos import EventProtos
from metronorm.integrations.importing.event_file import record_of
from metronorm.integrations.json_values import as_json
from metronorm.integrations.names import RUN_TAG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from metronorm.store.run_directory import RunInfo

PROJECT = "metronorm"
_serial = itertools.count()
_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # trackio stores on another machine


class Opened(NamedTuple):
    """What a tracker is told of a run.

    Attributes:
        info: its description.
        directory: of the run.
        tick: the last tick before those that come; 0 in a new run.
    """

    info: RunInfo
    directory: Path
    tick: int


class Tracker(Protocol):
    """Where a mirror writes: made before the training, and then used by the mirror's thread."""

    def open(self, run: Opened) -> int:
        """Begin, or go on where an earlier attempt was; the last tick that stays as it is."""

    def write(self, tick: int, time_ns: int, values: dict[str, float]) -> None:
        """Write values of a tick, which ended at this time since 1970."""

    def flush(self) -> None:
        """Let others see what was written."""

    def close(self) -> None:
        """Write what is not written yet, and end."""


class TensorBoard:
    """Event files, without TensorBoard's own writer.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        self._protos = EventProtos()
        self._file: BinaryIO | None = None

    def open(self, run: Opened) -> int:
        """Begin an event file; readers leave out what older ones have from here on."""
        folder = run.directory / "tensorboard"
        folder.mkdir(exist_ok=True)
        parts = (f"{int(time.time()):010}", platform.node(), os.getpid(), next(_serial))
        name = ".".join(map(str, ("events.out.tfevents", *parts)))
        self._file = open(folder / name, "wb")  # noqa: SIM115 - `close` closes it
        self._put(self._protos.beginning())
        self._put(self._protos.restart(run.tick + 1))
        if not run.tick:
            description = json.dumps({"name": run.info.name, "config": run.info.config})
            self._put(self._protos.text(RUN_TAG, description, 0, run.info.created_ns))
        return 0

    def write(self, tick: int, time_ns: int, values: dict[str, float]) -> None:
        """One event with all scalars of a tick."""
        self._put(self._protos.scalars(values.items(), tick, time_ns))

    def flush(self) -> None:
        """Write to the file."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _put(self, event: Any) -> None:
        assert self._file is not None
        self._file.write(record_of(event.SerializeToString()))


class WandB:
    """Weights & Biases; its own variables (`WANDB_MODE`, `WANDB_PROJECT`, ...) say where and how.

    Raises:
        MissingDependencyError: wandb is not installed.
    """

    def __init__(self) -> None:
        with needs("wandb", what="the mirror wandb", fix="pip install wandb"):
            import wandb
        self._package: Any = wandb
        self._run: Any = None

    def open(self, run: Opened) -> int:
        """Begin the run, or go on with it, by its id."""
        self._run = self._package.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.info.id,
            name=run.info.name,
            config=as_json(run.info.config),
            dir=str(run.directory),
            resume="allow",
            # the run records the machine itself, and standard output is the training's
            settings=self._package.Settings(console="off", x_disable_stats=True),
        )
        return int(self._run.step or 1) - 1

    def write(self, tick: int, time_ns: int, values: dict[str, float]) -> None:
        """Log the values at the step of this number."""
        self._run.log(values, step=tick)

    def flush(self) -> None:
        """Nothing: wandb writes by itself."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackio:
    """Trackio, on this machine unless its own variables say otherwise.

    Raises:
        MissingDependencyError: trackio is not installed.
    """

    def __init__(self) -> None:
        with needs("trackio", what="the mirror trackio", fix="pip install trackio"):
            import trackio
        self._package: Any = trackio
        self._run: Any = None
        self._last = 0
        self._stored: Any = None

    def open(self, run: Opened) -> int:
        """Begin the run, or go on with it, by its name and the beginning of its id."""
        from trackio.sqlite_storage import SQLiteStorage

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = f"{run.info.name}-{run.info.id[:8]}"
        last = SQLiteStorage.get_max_step_for_run(project, name) if run.tick else None
        self._run = self._package.init(
            project=project,
            name=name,
            config=as_json(run.info.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._stored = lambda: SQLiteStorage.get_max_step_for_run(project, name)
        return int(last or 0)

    def write(self, tick: int, time_ns: int, values: dict[str, float]) -> None:
        """Log the values at the step of this number."""
        self._run.log(values, step=tick)
        self._last = tick

    def flush(self) -> None:
        """Nothing: trackio writes by itself."""

    def close(self) -> None:
        """Finish the run.

        Raises:
            RunError: trackio, which only warns of that, has not stored the last tick.
        """
        self._run.finish()
        if any(os.environ.get(name) for name in _ELSEWHERE):
            return
        if (stored := self._stored() or 0) < self._last:
            raise RunError(
                "trackio must store what it is given", got=f"ticks up to {stored} of {self._last}"
            )


TRACKERS: dict[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
