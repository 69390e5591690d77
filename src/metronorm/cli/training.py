"""What the commands that train have in common: their options, their processes, how they end."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from metronorm.cli._early_signals import ending_early
from metronorm.cli.arguments import value_of, without
from metronorm.cli.launched import end_with_launcher, launching
from metronorm.errors import ConfigError, StoppedEarly
from metronorm.ranks import find_place
from metronorm.text import short_time, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from metronorm.train.config import TrainConfig
    from metronorm.train.loop import Outcome

T = TypeVar("T")

SIGNALS = """\
Ctrl-C, SIGTERM and SIGHUP finish the tick, save a checkpoint, and exit with 130, 143 and 129. If
the disk is too full for the last checkpoint, the exit code is 3."""

_NOT_SAVED = 3


@dataclass(frozen=True)
class Options:
    """Options of a command that trains, beside those of the training itself."""

    config: Path | None = None
    """TOML file with options, such as the config.toml of a run. Options on the command line
    win. Paths in it begin at its folder."""
    run: Path | None = None
    """Directory of the run. None: runs/NAME, with a number if that is taken."""
    resume: Path | None = None
    """Continue the run in this directory from its newest whole checkpoint. The options are those of
    the run. These may differ: how often to evaluate and save; more --ticks; another --batch-size
    with as many examples per tick."""
    resume_or_start: Path | None = None
    """Continue the run in this directory if there is one; otherwise start it there. For scripts
    that are started again and again."""
    from_tick: int | None = None
    """With --resume: continue from the checkpoint of this tick. This is a branch of the run, and
    the options of the optimizer may differ too."""
    learning_rate: Literal["auto"] | None = None
    """auto: find the learning rates of a new training by a range test and up to five short runs,
    on one process."""
    mirror: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Other trackers that get every tick too, while the run is written: event files in the run's
    folder tensorboard, or a run of Weights & Biases or Trackio, where their own variables say."""
    processes: int = 1
    """Processes of this machine that train together; see --parallel."""
    dry_run: bool = False
    """Make a few ticks on one process, print what the training would take, and stop. With
    --processes: what each of them would hold and send."""


def arguments_of(kind: type[TrainConfig], base: type[Any], hidden: Sequence[str] = ()) -> Any:
    """A dataclass of a command's options, and those of a kind of training as `training`.

    Args:
        kind: of training.
        base: the command's options.
        hidden: names of those that this kind of training does not have.

    Raises:
        ConfigError: the two have an option of the same name.
    """
    taken = {each.name for each in fields(base)} & {each.name for each in fields(kind)}
    if taken:
        raise ConfigError(
            "a recipe's Config must use other names than the options of the command",
            got=", ".join(sorted(taken)),
        )
    options: list[Any] = [("training", Annotated[kind, tyro.conf.arg(name="")], field())]
    options += [(name, Annotated[str, tyro.conf.Suppress], field()) for name in hidden]
    return make_dataclass("Arguments", options, bases=(base,), frozen=True, kw_only=True)


def check(arguments: Options, config: TrainConfig, argv: list[str]) -> None:
    """Raise ConfigError for options that do not go together."""
    if config.minutes and value_of("--ticks", argv) is not None:
        raise ConfigError(
            "minutes decide the number of ticks",
            got=f"--ticks beside {config.minutes:g} minutes",
            fix="--minutes 0 with --ticks",
        )
    if arguments.resume is not None and arguments.run is not None:
        raise ConfigError("--run names a new run and --resume an old one", got="both")
    if arguments.resume_or_start is not None and (arguments.resume or arguments.run):
        raise ConfigError(
            "--resume-or-start names the run alone", got="--resume or --run beside it"
        )
    if arguments.from_tick is not None and arguments.resume is None:
        raise ConfigError("--from-tick is for --resume RUN", got="no --resume")


def check_mirrors(names: Sequence[str]) -> None:
    """Raise MissingDependencyError for a tracker that is not installed, before anything begins."""
    if names:
        from metronorm.integrations.mirroring import trackers_of

        trackers_of(names)


def mirrored(names: Sequence[str], run: str | Path) -> AbstractContextManager[object]:
    """A context in which rank 0 mirrors a run."""
    if not names or find_place().rank:
        return contextlib.nullcontext()
    from metronorm.integrations.mirroring import mirroring

    return mirroring(run, names)


def run_to_resume(argv: list[str]) -> Path | None:
    """The run to go on with; None: a new one begins."""
    resume, either = value_of("--resume", argv), value_of("--resume-or-start", argv)
    if resume:
        return Path(resume)
    return Path(either) if either and (Path(either) / "run.json").exists() else None


def unless_stopped(command: Callable[[], T]) -> T | int:
    """What a command returns; where a signal ends it before its training begins, its exit code."""
    try:
        with ending_early():
            end_with_launcher()
            return command()
    except StoppedEarly as stop:
        if not find_place().rank:
            print(stop, file=sys.stderr)
        return stop.code


def launched(processes: int, command: str, argv: list[str], *, dry_run: bool) -> int | None:
    """The exit code of the processes that train together; None: this process trains alone.

    Args:
        processes: how many.
        command: that each of them runs.
        argv: its arguments; `--processes` is left out.
        dry_run: nothing is started.

    Raises:
        ConfigError: a number that cannot be.
    """
    if processes != 1:
        from metronorm.train.launching import check_processes, launch

        check_processes(processes)
        if not dry_run:
            with launching():
                left = without("--processes", argv)
                return launch(processes, ["-m", "metronorm", command, *left])
    # OpenMP's threads wait for each other in a loop, by default for milliseconds, before they
    # sleep. On a busy machine they so take the cores from one another: two threads were 40 times
    # slower than with this setting, which on an idle machine costs nothing.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    return None


def with_rate(arguments: Options, task: Any, config: Any, run: Path, *, resumed: bool) -> Any:
    """The config with the learning rate that was found, where --learning-rate auto asks for one.

    Raises:
        ConfigError: it cannot be found.
    """
    if arguments.learning_rate is None or resumed:
        return config
    from metronorm.clock import check_free
    from metronorm.tune.rate import find_rate

    check_free(run)
    found = find_rate(task, config, run, lambda line: print(line, file=sys.stderr, flush=True))
    print(found, file=sys.stderr, flush=True)
    return found.config


def check_rate(arguments: Options, argv: list[str]) -> None:
    """Raise ConfigError where --learning-rate auto does not go with the rest."""
    if arguments.learning_rate is None:
        return
    given = [
        name
        for name in ("--optimizer.learning-rate", "--optimizer.matrix-learning-rate")
        if value_of(name, argv) is not None
    ]
    if given:
        raise ConfigError(
            "a learning rate is given or found", got=f"{given[0]} beside --learning-rate auto"
        )
    if arguments.resume is not None:
        raise ConfigError(
            "--learning-rate auto is for a new run", got="--resume", fix="leave it out"
        )
    if arguments.processes != 1 or find_place().world_size > 1 or arguments.dry_run:
        raise ConfigError(
            "--learning-rate auto makes short runs on one process",
            got="--dry-run" if arguments.dry_run else "several processes",
            fix="find it on one process, then --optimizer.learning-rate NUMBER",
        )


def print_plan(task: Any, options: TrainConfig, processes: int) -> int:
    """Plan on one process, for all that there would be or that a launcher has started."""
    from metronorm.planning import plan

    place = find_place()
    if place.rank:
        return 0
    processes = max(processes, place.world_size)
    found = plan(task, options, processes=processes)
    passes = f", {found.passes:,.1f} passes over the data" if found.passes else ""
    on_one = " on one process" if processes > 1 else ""
    print(f"model     {found.parameters:,} parameters on {found.device} in {found.precision}")
    print(
        f"training  {found.ticks:,} ticks of {found.per_tick:,} {found.unit}, "
        f"{found.ticks * found.per_tick:,} in all{passes}"
    )
    print(
        f"time      {short_time(found.seconds_per_tick * 1e9)} a tick, "
        f"{short_time(found.seconds * 1e9)} for all of them{on_one}; "
        "evaluations come on top"
    )
    forecast = f", {size(found.forecast_bytes)} by forecast" if found.forecast_bytes else ""
    print(f"memory    {size(found.memory_bytes)} at the most so far{forecast}")
    needs = found.prediction
    held = ", ".join(f"{name} {size(each)}" for name, each in needs.held.items() if each)
    each = " on each process" if processes > 1 else ""
    print(f"tensors   {size(needs.held_bytes)}{each} by prediction: {held}")
    if processes > 1:
        print(
            f"network   {size(needs.sent_bytes)} sent by each of {processes} processes in a tick "
            f"({options.parallel})"
        )
    return 0


def stopped(outcome: Outcome, again: Sequence[str]) -> int | None:
    """Say why a training has ended before its planned end; its exit code, None: it has not.

    Args:
        outcome: of the training.
        again: the command that goes on with it.
    """
    if outcome.saved != outcome.tick:
        newest = "none" if outcome.saved is None else f"of tick {outcome.saved}"
        print(
            f"metronorm {again[1]}: the checkpoint of the last tick, {outcome.tick}, could not be "
            f"written; the newest there is {newest}; make room, then go on with: "
            f"{shlex.join(again)}",
            file=sys.stderr,
        )
        return _NOT_SAVED
    if outcome.signal is not None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(
                f"stopped by {outcome.signal.name} after tick {outcome.tick}; "
                f"go on with: {shlex.join(again)}",
                file=sys.stderr,
            )
        return 128 + outcome.signal
    if outcome.reason is not None:
        print(f"stopped after tick {outcome.tick}: {outcome.reason}", file=sys.stderr)
    return None
