"""When a training saves itself, and what: a checkpoint is written after the record of its tick.

| at the end of a tick | it is saved |
| --- | --- |
| a multiple of `checkpoint_every`, the last one | yes |
| the best evaluation so far | yes |
| a signal or a hook ends the training | yes |
| the first after a branch | the checkpoint it goes on from, as one of the branch |
| an evaluation or a hook raises | yes |
| the next tick raises before its update | yes, as far as it can be put back |

| when | the training thread | another thread |
| --- | --- | --- |
| at the end of the tick | remembers all but the tensors | |
| in the next tick, or after the last one | waits for its record, copies tensors | writes files |
| at the first tick after that | reports it: event `checkpoint` or `checkpoint failed` | |

So a run that is killed never resumes after a tick of which it has no record, and the training waits
for the copy alone. There is one copy: if the next checkpoint is due while one is being written, the
training waits for that. What was begun is finished before the training ends; after an interrupt,
before the process ends.

On a CPU a large training makes no copy, and writes its files itself: the copy would double what it
holds, and the other thread would take its time from the same cores.

What a tick changes before its update is little: the place in the data, which is taken with the
state, and buffers, of which there are copies. Sums that an optimizer carries over cannot be put
back: nothing is saved where a gradient was added to them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping
from concurrent import futures
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.checkpoints import folder
from metronorm.checkpoints.checkpoint import FOLDER, OWN_NAMES, take
from metronorm.errors import ConfigError, DivergenceError
from metronorm.train import buffers
from metronorm.train.checkpoint_thread import at_once, in_background
from metronorm.train.config_changes import config_to_dict
from metronorm.train.resuming import describe_machine, warn_if_not_exact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    import torch
    from torch import Tensor

    from metronorm.checkpoints.checkpoint import Checkpoint, Taken
    from metronorm.clock import Clock
    from metronorm.train.config import TrainConfig
    from metronorm.train.measuring import Measuring
    from metronorm.train.preparing import Preparation

_log = logging.getLogger("metronorm")

_MOST_COPIED = 256 << 20


def most_copied(device: torch.device) -> int | None:
    """Bytes of a checkpoint up to which a training there makes a copy; None: it always does."""
    return _MOST_COPIED if device.type == "cpu" else None


class Saving:
    """The checkpoints of an attempt.

    Args:
        ready: what is to be saved.
        directory: of the run.
        found: the checkpoint that the attempt goes on from, if any.
        branch: whether the attempt is a branch.

    Attributes:
        saved: the tick of the newest checkpoint; None before the first.
        kept_by_task: what the task wants to be in every checkpoint, plain values by name.
    """

    def __init__(
        self, ready: Preparation, directory: Path, found: Checkpoint | None, *, branch: bool
    ) -> None:
        self._ready, self._folder = ready, directory / FOLDER
        self._world = ready.world
        # threads of their own speak in a group of their own
        self._writers = ready.world.separate(ready.step.config.rank_timeout)
        self._taken: Taken | None = None  # the newest copy; the next one is put in its place
        self._writing: Future[dict[str, Any]] | None = None
        self.saved = found.tick if found else None
        self.kept_by_task: Mapping[str, Any] = {}
        self._branch = folder.newest_branch(self._folder) + branch
        step = ready.step
        self._machine = describe_machine(step.device, compiled=step.config.compile)
        if found:
            warn_if_not_exact(found, self._machine)
        self._branches = dict(found.state.get("branches", {})) if found else {}
        if branch and found:
            self._branches[str(self._branch)] = found.tick
        self.plan(step.config)
        self.seconds = 0.0  # of training up to the end of the newest tick, where that is counted
        # at the end of the newest tick: the state, and the buffers that forward passes change
        self._state: dict[str, Any] = {}
        self._places = [buffers.places(step.model)[name] for name in ready.changing]
        self._copies = self._copied()
        self._due = bool(branch and found)
        if branch and found:
            self._state = self._state_of(found.tick, found.state.get("score"), found.state)
        self._best = folder.best_score(
            self._folder, self._state or (found.state if found else None)
        )

    def plan(self, config: TrainConfig) -> None:
        """Have this config in every checkpoint from now on."""
        self._config = config_to_dict(config)

    def keep(self, kept: Any) -> None:
        """Have what the task's `save` returned in every checkpoint.

        Raises:
            ConfigError: it is no dict of plain values, or has a name of the checkpoint's own.
        """
        kept = {} if kept is None else kept
        must = "a task's save must return plain values by name: texts, numbers, lists and dicts"
        if not isinstance(kept, Mapping) or not all(isinstance(name, str) for name in kept):
            raise ConfigError(must, got=repr(kept))
        try:
            msgspec.json.encode(kept)
        except (TypeError, ValueError) as error:
            raise ConfigError(must, got=str(error)) from None
        if taken := sorted(kept.keys() & {*self._state_of(0, None, {}), *OWN_NAMES}):
            raise ConfigError(
                "a task's save must use names that a checkpoint does not have",
                got=", ".join(taken),
            )
        self.kept_by_task = kept

    def is_best(self, score: float | None) -> bool:
        """Whether a score is better than all before; it is then the one to beat."""
        if score is None or not score < self._best:
            return False
        self._best = score
        return True

    def take(self, tick: int, score: float | None, measuring: Measuring, *, due: bool) -> None:
        """Remember the state at the end of this tick; if it is `due`, for `write`."""
        evaluated = {"measures": dict(measuring.measures), "test": dict(measuring.test)}
        self._state, self._due = self._state_of(tick, score, evaluated), due
        self._copies = self._copied()

    def _copied(self) -> list[Tensor]:
        return [getattr(*place).clone() for place in self._places]

    @contextlib.contextmanager
    def finished_tick(self, clock: Clock) -> Iterator[None]:
        """Save the newest finished tick, if it is whole, before an exception goes on.

        Afterwards nothing is being written, except after a `KeyboardInterrupt`.
        """
        try:
            yield
            self._wait(clock)
        except (Exception, SystemExit) as error:
            try:
                self._wait(clock)
                if not isinstance(error, DivergenceError):
                    self._rescue(clock)
            except Exception as another:  # what happened first goes on
                _log.warning("no checkpoint at tick %d: %s", self._state.get("tick", 0), another)
            raise

    def _rescue(self, clock: Clock) -> None:
        """Write the newest finished tick, if it is whole and not saved yet."""
        state = self._state
        # of several processes the others are elsewhere
        whole = self._world.size == 1 and state and self._ready.step.begun <= state["tick"]
        if whole and (self._due or self.saved != state["tick"]):
            self._due = True
            for place, copy in zip(self._places, self._copies, strict=True):
                setattr(*place, copy)
            self.write(clock)
            self._wait(clock)

    def write(self, clock: Clock) -> None:
        """Have written what is due, if anything, and report what has been written since.

        A full disk is logged, and the training goes on.

        Raises:
            DivergenceError: a tick up to now was not finite; nothing is written.
            CheckpointError, RankError, RuntimeError: the checkpoint before could not be written,
                for another reason than the disk.
        """
        if self._due or (self._writing and self._writing.done()):
            self._wait(clock)
        if not self._due:
            return
        self._due = False
        step, state = self._ready.step, {**self._state, **self.kept_by_task}
        step.first_nonfinite.check(wait=True)  # no checkpoint before its ticks are known
        with self._world.phase(clock, "checkpoint"):
            # it is published when all ranks have written their part: so all have this on record
            clock.flush()
            self._taken = taken = take(
                model=step.model,
                optimizer=step.optimizer,
                state=state,
                tensors=self._ready.averages.tensors(),
                world=self._world,
                most_copied=most_copied(step.device),
                memory=self._taken,
            )
            write = in_background if taken.copied else at_once
            self._writing = write(lambda: self._written(taken))
            if not taken.copied:  # nothing of it is needed again, and tensors may be replaced
                self._taken = dataclasses.replace(taken, model={}, state={}, wait=lambda: None)

    def _written(self, taken: Taken) -> dict[str, Any]:
        """Write a checkpoint, and remove old ones; the fields of its event."""
        begin = time.perf_counter()
        path = folder.write(self._folder, taken, self._writers)
        if self._world.first:
            try:
                folder.prune(self._folder, self._ready.step.config.keep, tick=taken.tick)
            except OSError as error:
                _log.warning("an old checkpoint cannot be removed: %s", error)
        seconds = round(time.perf_counter() - begin, 3)
        return {"path": path.name, "bytes": taken.bytes, "seconds": seconds}

    def _wait(self, clock: Clock) -> None:
        """Wait for the checkpoint that is being written, if any, and report what came of it."""
        if self._writing is None or self._taken is None:
            return
        with self._world.phase(clock, "checkpoint"):
            futures.wait([self._writing])  # if this is interrupted, it is still being written
            writing, self._writing = self._writing, None
            try:
                fields = writing.result()
            except OSError as error:
                _log.warning("no checkpoint at tick %d: %s", self._taken.tick, error)
                clock.event("checkpoint failed", error=str(error))
                return
            self.saved = self._taken.tick
            clock.event("checkpoint", **fields)

    def _state_of(
        self, tick: int, score: float | None, evaluated: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a resumed run needs beside tensors, as it is at the end of this tick."""
        step = self._ready.step
        return {
            "tick": tick,
            "branch": self._branch,
            "branches": self._branches,
            "config": self._config,
            "precision": step.precision,
            "sampler": self._ready.beats.state_dict(),
            "data_id": step.config.data_id or None,
            "machine": self._machine,
            "score": score,
            "measures": evaluated.get("measures", {}),
            "test": evaluated.get("test", {}),
            "seconds": self.seconds,
        }
