"""One trial: an ordinary training, and what came of it as a result.

It never reads the test set, by which nothing may be chosen.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metronorm.errors import (
    ConfigError,
    DataError,
    DivergenceError,
    OutOfMemoryError,
    RunError,
)
from metronorm.files import remove_directory
from metronorm.runs import open_run
from metronorm.runs.events import read_events
from metronorm.train.config_changes import run_config
from metronorm.train.task import Hook
from metronorm.tune.options import with_values
from metronorm.tune.study import LOG, Result, no_room

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from metronorm.train.config import TrainConfig
    from metronorm.train.task import Moment, Task
    from metronorm.tune.space import Space
    from metronorm.tune.study import Status, Study, Trial
    from metronorm.tune.subjects import Subject


def config_of(study: Study, space: Space, config: TrainConfig, trial: Trial) -> TrainConfig:
    """The config of a trial: the point's options, its seed, and as long as its rung is.

    Raises:
        ConfigError: options that do not go together.
    """
    share = study.info.shares[trial.rung]
    found = with_values(config, space.options(trial.point or {}))
    found = replace(found, seed=trial.seed)
    if study.info.equal == "seconds":
        return replace(found, minutes=config.minutes * share)
    ticks = config.ticks * share
    if study.info.equal == "tokens":
        ticks *= examples_per_tick(config) / examples_per_tick(found)
    return replace(found, ticks=max(1, round(ticks)))


def examples_per_tick(config: Any) -> int:
    """What a tick counts, as far as the config says: tokens of a text, examples elsewhere."""
    context = getattr(getattr(config, "model", None), "context", 1)
    return int(config.batch_size * config.micro_batches * context)


def run_trial(
    study: Study,
    space: Space,
    subject: Subject,
    trial: Trial,
    watch: Callable[[Moment], str | None] | None = None,
    every_tick: Callable[[], object] | None = None,
) -> Result | signal.Signals:
    """Train a trial, or go on with it where it was; a signal ends it, without a result.

    Args:
        study: whose trial it is.
        space: that its point is of.
        subject: what is trained.
        trial: which; this process has claimed it.
        watch: called after some ticks; a text says why the trial is stopped.
        every_tick: called after every tick.

    Raises:
        ConfigError, DataError: of the first trial, which is the config as it is.
        RunError: the disk is full, or the run is in use.
    """
    directory = study.run(trial.number)
    try:
        config = config_of(study, space, subject.config, trial)
    except ConfigError as error:
        return Result(status="conflict", reason=str(error))
    config = replace(config, **subject.quiet)
    resume = (directory / "run.json").exists()
    config = replace(config, **_of_machine(study, config, directory if resume else None))
    if not resume:  # what a process left that was killed before there was a run
        for name in ("ticks", "checkpoints"):
            if (directory / name).exists():
                remove_directory(directory / name)
    ended: Any = None
    status: Status = "done"
    reason = ""
    try:
        with _kept_in(directory / LOG), subject.around(config):
            ended = _train(subject, config, directory, resume, watch, every_tick)
    except DivergenceError as error:
        status, reason = "diverged", str(error)
    except OutOfMemoryError as error:
        status, reason = "out of memory", str(error)
    except (ConfigError, DataError) as error:
        if trial.number == 0:
            raise
        status, reason = "conflict", str(error)
    except RunError:
        raise
    except OSError as error:
        raise no_room(study.directory, error) from None
    except Exception as error:
        if trial.number == 0:
            raise
        status, reason = "failed", f"{type(error).__name__}: {error}"
    if ended is not None and ended.signal is not None:
        return ended.signal  # type: ignore[no-any-return]
    result = _result(study, trial, config, status, reason, ended)
    del ended
    gc.collect()  # the model and its optimizer are in circles
    return result


def _of_machine(study: Study, config: TrainConfig, resumed: Path | None) -> dict[str, Any]:
    """What `auto` is for this machine: all trials have what the first one has found out.

    Finding it out takes longer than a short trial, and another precision rounds otherwise. A trial
    that goes on has what it began with.
    """
    names = [name for name in ("precision", "allocator") if getattr(config, name) == "auto"]
    if resumed is not None:
        chosen = run_config(resumed)
    elif study.result(0) is not None:
        chosen = _chosen(study.run(0))
    else:
        return {}
    return {name: chosen[name] for name in names if name in chosen}


@functools.lru_cache(maxsize=16)
def _chosen(run: Path) -> dict[str, Any]:
    """The choices for the machine in a run that has ended: they never change."""
    found = read_events(open_run(run).events(), "event = 'machine'")
    return found[-1].fields if found else {}


def _train(
    subject: Subject,
    config: TrainConfig,
    directory: Path,
    resume: bool,
    watch: Callable[[Moment], str | None] | None,
    every_tick: Callable[[], object] | None,
) -> Any:
    from metronorm.train import train

    def stop(moment: Moment) -> None:
        if every_tick is not None:
            every_tick()
        reason = watch(moment) if watch is not None and not moment.last else None
        if reason:
            moment.stop(reason)

    def task(config: TrainConfig) -> Task:
        made = subject.task(config, resume=resume)
        return replace(made, test=None, hooks=[*made.hooks, Hook(1, stop, phase="tune")])

    return train(task, config, directory, resume=resume)


def _result(
    study: Study, trial: Trial, config: TrainConfig, status: Status, reason: str, ended: Any
) -> Result:
    seconds, ticks = spent(study.run(trial.number))
    planned = config.ticks
    value = None
    if ended is not None:
        ticks = ended.tick
        if ended.reason:
            status, reason = "stopped", ended.reason
        else:
            planned = ticks  # with `minutes` they are planned in the run
            value = ended.measures.get(study.measure)
            if value is None:
                raise ConfigError(
                    "a study needs a task with a validation set, and its measure",
                    got=f"{study.measure!r}, which was not measured",
                    fix=f"--best {' or '.join(ended.measures)}" if ended.measures else None,
                )
    done = min(1.0, ticks / max(1, planned))
    if value is None and config.minutes:
        done = min(1.0, seconds / (60 * config.minutes))
    return Result(
        status=status,
        value=value,
        ticks=ticks,
        share=study.info.shares[trial.rung] * done,
        seconds=seconds,
        reason=reason,
    )


def spent(run: Path) -> tuple[float, int]:
    """The seconds of all ticks of a run, in all attempts, and the number of its last tick."""
    if not (run / "run.json").exists():
        return 0.0, 0
    query = "select coalesce(sum(wall_ns), 0) / 1e9, coalesce(max(tick), 0) from ticks"
    ((seconds, ticks),) = open_run(run).ticks("full").only("tick", "wall_ns").fetch(query)
    return float(seconds), int(ticks)


@contextlib.contextmanager
def _kept_in(path: Path) -> Iterator[None]:
    """What a trial says goes into a file beside it, and not between the lines of the study."""
    with open(path, "a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        try:
            with contextlib.redirect_stdout(file):
                yield
        except Exception:
            traceback.print_exc(file=file)
            raise
