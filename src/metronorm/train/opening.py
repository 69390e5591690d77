"""Which run a training is, and whether it may be: the way into the loop."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from metronorm import __version__
from metronorm.allocator import keep_large_blocks
from metronorm.clock import Clock, check_free
from metronorm.errors import ConfigError
from metronorm.memory import explaining_out_of_memory
from metronorm.text import flat
from metronorm.train.config_changes import changes, check_resumable, config_to_dict, run_config
from metronorm.train.loop import Training
from metronorm.train.preparing import made
from metronorm.train.resuming import (
    check_same_config,
    check_same_data,
    checkpoint_to_resume,
    data_id_of,
)
from metronorm.train.seeding import random_numbers_put_back
from metronorm.train.stop import Stop
from metronorm.train.world import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metronorm.train.config import TrainConfig
    from metronorm.train.loop import Outcome
    from metronorm.train.task import Task
    from metronorm.train.world import World

Config = TypeVar("Config", bound="TrainConfig")


def train(
    task: Task | Callable[[Config], Task],
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    from_tick: int | None = None,
) -> Outcome:
    """Train a task, every tick on record in the run `directory`.

    Args:
        task: what to train; or a function that makes it of the config, called once it is certain
            that the run is this process's.
        config: how to train it; on `resume` the run's own, apart from what its fields say may
            differ.
        directory: of the run; new, or on `resume` one that is there.
        resume: go on from the newest whole checkpoint; from tick 0 where there is none yet.
        from_tick: with `resume`, go on from the checkpoint of this tick instead: a branch, for
            which the options of the optimizer may differ.

    Raises:
        DataError: data that cannot be used, or on `resume` other data than the run had.
        ConfigError: options that cannot work, or on `resume` differ from the run's.
        RunError: the directory holds another run, or on `resume` none, or one that another process
            is writing.
        CheckpointError: on `resume`, only damaged checkpoints, or none of `from_tick`.
        DivergenceError: the loss is no longer finite.
        OutOfMemoryError: a micro-batch that does not fit.
    """
    directory = directory.absolute()  # wherever the process goes
    branch = from_tick is not None
    if branch and not resume:
        raise ConfigError("from_tick is for a run that goes on", got="resume=False")
    with (
        _process_put_back(),
        Stop() as stop,
        joined(config.device, config.rank_timeout) as world,
        explaining_out_of_memory(resume=resume),
        contextlib.ExitStack() as stack,
    ):
        # before anything else, as what ranks do next depends on it
        world.check_same("code and options", _identity(config, resume=resume))
        directory = Path(world.told(lambda: str(directory)))
        with world.failing_together():
            if resume:
                training = _resumed(task, config, directory, from_tick, world, stop, stack)
            else:
                world.told(lambda: check_free(directory))
                whole, config = _made(task, config, world)
                training = Training(whole, config, directory, world, stop)
        return training.run()


def _resumed(
    task: Task | Callable[[Config], Task],
    config: Config,
    directory: Path,
    from_tick: int | None,
    world: World,
    stop: Stop,
    stack: contextlib.ExitStack,
) -> Training:
    """The training of a run that goes on; at the end of `stack` the run is released."""
    branch, old = from_tick is not None, run_config(directory)
    check_resumable(config, old, proven=True, branch=branch)
    # the run is this process's before anything of it is read: else another one may go on with it
    # meanwhile, and this one then from where that had been
    clock = stack.enter_context(contextlib.closing(Clock(directory, resume=True).claim()))
    found = checkpoint_to_resume(directory, from_tick, world)
    data_id = (found and data_id_of(found)) or config.data_id
    check_resumable(config, old, proven=bool(data_id), branch=branch)
    if found:
        check_same_config(found, config, branch=branch)
        if config.ticks < found.tick and not config.minutes:
            raise ConfigError(
                "ticks must be at least those that are done",
                got=f"{config.ticks}, where {found.tick} are done",
            )
    renamed = any(change.rule == "data" for change in changes(old, config))
    # with the hash a task may take its data from a cache; but data that is named anew must be
    # there, and the same
    config = replace(config, data_id="" if renamed else data_id or "")
    whole, config = _made(task, config, world)
    check_same_data(data_id, config.data_id)
    return Training(whole, config, directory, world, stop, clock, found, old, branch=branch)


def _made(
    task: Task | Callable[[Config], Task], config: Config, world: World
) -> tuple[Task, Config]:
    """The task, and the config with what its data decided, which all ranks must have alike."""
    whole, config = world.in_turn(lambda: made(task, config))
    world.check_same("data", flat(config_to_dict(config)))
    return whole, config


def _identity(config: TrainConfig, *, resume: bool) -> dict[str, Any]:
    """What must be the same in all processes that train together."""
    return {
        "resume": resume,
        "metronorm": __version__,
        "torch": str(torch.__version__),
        **flat(config_to_dict(config)),
    }


@contextlib.contextmanager
def _process_put_back() -> Iterator[None]:
    """Afterwards the process has its random numbers again, and the system's way of allocating."""
    with random_numbers_put_back():
        try:
            yield
        finally:
            keep_large_blocks(False)
