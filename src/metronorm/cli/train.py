"""`metronorm train`: from text, or from the data of a recipe, to a trained model."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from metronorm.cli import sample, show
from metronorm.cli._config_file import read_options, with_data_of
from metronorm.cli._early_signals import ending_early
from metronorm.cli.arguments import parse, value_of, without
from metronorm.cli.free_directory import free_directory
from metronorm.cli.launched import end_with_launcher, launching
from metronorm.cli.recipe import Recipe, load_recipe
from metronorm.errors import ConfigError, MetronormError, StoppedEarly
from metronorm.ranks import find_place
from metronorm.tasks import text
from metronorm.text import short_time, size
from metronorm.train.config_changes import config_from_dict, run_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.train.config import TrainConfig
    from metronorm.train.loop import Outcome

DESCRIPTION = """
    metronorm train                       Shakespeare, 3 minutes on two cores
    metronorm train --data notes/*.txt    your own text
    metronorm train --recipe own.py       your own model and data
    metronorm train --resume runs/NAME    continue a stopped run, bit for bit

Ctrl-C, SIGTERM and SIGHUP finish the tick, save a checkpoint, and exit with 130, 143 and 129. If
the disk is too full for the last checkpoint, the exit code is 3.

A resumed run of text takes --data too, if it is the same text in another place, and --cache."""

NOT_SAVED = 3


@dataclass(frozen=True)
class Options:
    """Options of `metronorm train` that are no training's own."""

    preset: str = "quick"
    """Defaults of all other options: quick (1 M parameters), small (10 M) or gpt2 (124 M)."""
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
    processes: int = 1
    """Processes of this machine that train together; see --parallel."""
    dry_run: bool = False
    """Make a few ticks on one process, print what the training would take, and stop. With
    --processes: what each of them would hold and send."""


def _arguments(kind: type[TrainConfig]) -> Any:
    """The options above, and those of a kind of training as `training`."""
    taken = {each.name for each in fields(Options)} & {each.name for each in fields(kind)}
    if taken:
        raise ConfigError(
            "a recipe's Config must use other names than the options of the command",
            got=", ".join(sorted(taken)),
        )
    options: list[Any] = [("training", Annotated[kind, tyro.conf.arg(name="")], field())]
    if kind is not text.Config:  # only text has presets
        options.append(("preset", Annotated[str, tyro.conf.Suppress], field()))
    return make_dataclass("Arguments", options, bases=(Options,), frozen=True, kw_only=True)


def main(argv: list[str]) -> int:
    """Train; 0, 128 + the number of the signal that stopped it, or 3 if its end is not saved."""
    try:
        with ending_early():
            end_with_launcher()
            ended = _train(argv)
    except StoppedEarly as stop:
        if not find_place().rank:
            print(stop, file=sys.stderr)
        return stop.code
    return ended if isinstance(ended, int) else _report(*ended)


def _train(argv: list[str]) -> int | tuple[Outcome, str, TrainConfig]:
    """How the training has ended; of what trains nothing here, and says nothing: the exit code."""
    resumed = _run_to_resume(argv)
    file = value_of("--config", argv)
    values = read_options(Path(file)) if file and not resumed else None
    recipe = _recipe(argv, resumed, values)
    kind: Any = recipe.config if recipe else text.Config
    kinds = _arguments(kind)
    with _own_checks_told(recipe):
        arguments: Any = parse(
            kinds,
            argv,
            command="train",
            description=recipe.description if recipe else DESCRIPTION,
            default=kinds(
                training=_defaults(argv, kind, resumed, values),
                preset=value_of("--preset", argv) or "quick",
            ),
        )
    _check(arguments)
    if arguments.processes != 1:
        from metronorm.train.launching import check_processes, launch

        check_processes(arguments.processes)
    if arguments.processes != 1 and not arguments.dry_run:
        left = without("--processes", argv)
        with launching():
            return launch(arguments.processes, ["-m", "metronorm", "train", *left])
    # OpenMP's threads wait for each other in a loop, by default for milliseconds, before they
    # sleep. On a busy machine they so take the cores from one another: two threads were 40 times
    # slower than with this setting, which on an idle machine costs nothing.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from metronorm.train import train  # torch is loaded only now

    options = arguments.training
    if recipe:
        options = replace(options, recipe=str(Path(options.recipe).absolute()))
    task: Any = recipe.task if recipe else text.task
    if file and values and options.data_id:
        task = with_data_of(file, options.data_id, task)
        options = replace(options, data_id="")
    if arguments.dry_run:
        return _print_plan(task, options, arguments.processes)
    run = str(resumed or arguments.run or arguments.resume_or_start or _directory(options))
    outcome = train(
        task, options, Path(run), resume=resumed is not None, from_tick=arguments.from_tick
    )
    if find_place().rank:
        return 128 + outcome.signal if outcome.signal else 0
    return outcome, run, options


@contextlib.contextmanager
def _own_checks_told(recipe: Recipe | None) -> Iterator[None]:
    """What a recipe's own Config raises of its values is a mistake of the user's, as ours is."""
    try:
        yield
    except MetronormError:
        raise
    except ValueError as error:
        if recipe is None:
            raise
        raise ConfigError("options must suit the recipe", got=str(error)) from error


def _run_to_resume(argv: list[str]) -> Path | None:
    resume, either = value_of("--resume", argv), value_of("--resume-or-start", argv)
    if resume:
        return Path(resume)
    return Path(either) if either and (Path(either) / "run.json").exists() else None


def _recipe(argv: list[str], resumed: Path | None, values: dict[str, Any] | None) -> Recipe | None:
    """The recipe that the arguments, the run or the file of options names."""
    path = value_of("--recipe", argv)
    if path is None and resumed:
        kept = run_config(resumed)
        path = kept.get("recipe")
        if not path and "text" not in kept and "optimizer" in kept:
            raise ConfigError(
                "a run of a task of your own goes on with that task",
                got=f"{resumed}, which no recipe was named for",
                fix="--recipe FILE, or metronorm.train.train(..., resume=True) from Python",
            )
    if path is None and values:
        path = values.get("recipe")
    if not isinstance(path, str | None):
        raise ConfigError("recipe must be the path of a Python file", got=repr(path))
    return load_recipe(path) if path else None


def _defaults(
    argv: list[str], kind: Any, resumed: Path | None, values: dict[str, Any] | None
) -> Any:
    """The config that holds where the arguments say nothing; `values` are those of --config."""
    preset, config = value_of("--preset", argv), value_of("--config", argv)
    if resumed:
        if preset is not None and value_of("--resume", argv):
            raise ConfigError("--preset is for a new run and --resume goes on with an old one")
        if config is not None and value_of("--resume", argv):
            raise ConfigError("--config is for a new run and --resume goes on with an old one")
        found = config_from_dict(run_config(resumed), kind)
        return text.without_cache(found) if kind is text.Config else found
    if config is not None and values is not None:
        if preset is not None:
            raise ConfigError("--preset and --config both give all options", got="both")
        return config_from_dict(values, kind, Path(config))
    if kind is text.Config:
        return text.training_preset(preset or "quick")
    if preset is not None:
        raise ConfigError("--preset is for text: a recipe has its own defaults", got=preset)
    return kind()


def _check(arguments: Options) -> None:
    if arguments.resume is not None and arguments.run is not None:
        raise ConfigError("--run names a new run and --resume an old one", got="both")
    if arguments.resume_or_start is not None and (arguments.resume or arguments.run):
        raise ConfigError(
            "--resume-or-start names the run alone", got="--resume or --run beside it"
        )
    if arguments.from_tick is not None and arguments.resume is None:
        raise ConfigError("--from-tick is for --resume RUN", got="no --resume")


def _directory(options: TrainConfig) -> Path:
    if isinstance(options, text.Config):
        return free_directory(options.text.data)
    return free_directory((options.recipe,))


def _print_plan(task: Any, options: TrainConfig, processes: int) -> int:
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
    print(f"memory    {size(found.memory_bytes)} at the most so far")
    held = ", ".join(f"{name} {size(each)}" for name, each in found.prediction.held.items() if each)
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


def _report(outcome: Outcome, run: str, options: TrainConfig) -> int:
    again = ["metronorm", "train", "--resume", run]
    if isinstance(options, text.Config) and options.text.cache is not None:
        again += ["--cache", str(options.text.cache)]
    if outcome.saved != outcome.tick:
        newest = "none" if outcome.saved is None else f"of tick {outcome.saved}"
        print(
            f"metronorm train: the checkpoint of the last tick, {outcome.tick}, could not be "
            f"written; the newest there is {newest}; make room, then go on with: "
            f"{shlex.join(again)}",
            file=sys.stderr,
        )
        return NOT_SAVED
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
    named = shlex.quote(run)
    if isinstance(options, text.Config):
        print("\nwhat it writes now:\n")
        sample.main([run, "--tokens", "300", "--seed", "0"])
    print()
    show.main([run])
    print(f"\nthe run is in {run}")
    if isinstance(options, text.Config):
        print(f"more of its writing: metronorm sample {named}    ", end="")
    for name, value in outcome.test.items():
        print(f"test {name}: {value:.4f}")
    print(f"again this table: metronorm show {named}")
    return 0
