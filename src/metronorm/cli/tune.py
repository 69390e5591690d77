"""`metronorm tune`: search for the options of a training."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metronorm.cli import finetune as finetune_command
from metronorm.cli import train as train_command
from metronorm.cli import training
from metronorm.cli._config_file import read_options
from metronorm.cli.arguments import parse, value_of
from metronorm.cli.free_directory import free_directory
from metronorm.cli.recipe import load_recipe
from metronorm.cli.tune_told import print_findings, tell_trial
from metronorm.errors import ConfigError
from metronorm.finetune.config import Config as FinetuneConfig
from metronorm.tasks import text
from metronorm.train.config_changes import changes, config_from_dict, config_to_dict
from metronorm.tune.built_in import built_in
from metronorm.tune.figures import write_table
from metronorm.tune.lengths import with_length
from metronorm.tune.rungs import shares_of
from metronorm.tune.search import parse_budget, search
from metronorm.tune.space_file import read_space, space_from
from metronorm.tune.study import FILE, Info, Study, create_study, open_study

if TYPE_CHECKING:
    from metronorm.tune.space import Space
    from metronorm.tune.study import Equal
    from metronorm.tune.subjects import Subject

DESCRIPTION = """
    metronorm tune --preset quick --budget 10m
    metronorm tune --recipe own.py --space space.toml --budget 40runs
    metronorm tune finetune MODEL chats.jsonl --budget 2h
    metronorm tune --study studies/own      go on, or join in as another process

All options of train, or of finetune, may be given: they hold in every trial. The study is a folder,
and its trials are ordinary runs. At the end it has best.toml, which `metronorm train --config`
takes.

Ctrl-C, SIGTERM and SIGHUP finish the tick and save the trial; --study goes on with it."""


@dataclass(frozen=True)
class Options:
    """Options of `metronorm tune` that are no training's own."""

    study: Path | None = None
    """Folder of the study. One that is there goes on, also beside other processes that work on
    it. None: studies/NAME, with a number if that is taken."""
    space: Path | None = None
    """TOML file with the options to search, and their values. None: the learning rates, the
    weight decay and the momentum around those of the config."""
    structure: bool = False
    """Without --space: search the structure of a GPT too, at about equal operations."""
    budget: str = "40runs"
    """How much to train in all: so many whole runs (40runs), or so long (90s, 10m, 2h). A study
    that goes on may have a larger one."""
    equal: Literal["ticks", "tokens", "seconds"] = "ticks"
    """What all trials have as much of. seconds: as many as --minutes says, or as the
    config takes."""
    method: Literal["halving", "whole", "random"] = "halving"
    """halving: short runs with their whole schedule first, and longer ones of the best third;
    whole: whole runs alone; random: whole runs of points at random."""
    seeds: int = 3
    """With so many seeds the best is compared with the default at the end, beyond the budget."""
    config: Path | None = None
    """TOML file with options, such as the config.toml of a run. Options on the command line
    win."""
    preset: str = "quick"
    """Defaults of all other options of a text: quick, small or gpt2."""


def options_kind() -> Any:
    """The dataclass of all options, for text: recipes and fine-tunings have others."""
    return training.arguments_of(text.Config, Options)


def main(argv: list[str]) -> int:
    """Search; 0, or 128 + the number of the signal that ended it."""
    return int(training.unless_stopped(lambda: _tune(argv)))


def _tune(argv: list[str]) -> int:
    command: Literal["train", "finetune"] = "finetune" if argv[:1] == ["finetune"] else "train"
    argv = argv[1:] if command == "finetune" else argv
    old = _old_study(argv)
    _check_same_task(old, argv, command)
    command = old.info.command if old else command
    kept = dict(old.info.config) if old else None
    file = value_of("--config", argv)
    if file and old:
        raise ConfigError("--config is for a new study and --study goes on with an old one")
    values = kept or (read_options(Path(file)) if file else None)
    path = value_of("--recipe", argv) or (values or {}).get("recipe")
    recipe = load_recipe(path) if path and command == "train" else None
    kind: Any = (
        FinetuneConfig if command == "finetune" else recipe.config if recipe else text.Config
    )
    hidden = () if kind is text.Config else ("preset",)
    kinds = training.arguments_of(kind, Options, hidden)
    default = (
        config_from_dict(values, kind, Path(file) if file else None)
        if values
        else finetune_command.default_config(argv, None)
        if command == "finetune"
        else train_command.default_config(argv, kind, None, None)
    )
    arguments: Any = parse(
        kinds,
        argv,
        command="tune",
        description=recipe.description if recipe else DESCRIPTION,
        default=kinds(training=default, preset=value_of("--preset", argv) or "quick"),
    )
    budget = parse_budget(
        arguments.budget if value_of("--budget", argv) or not old else old.info.budget
    )
    config = _checked(arguments.training, argv, recipe is not None)
    config = replace(config, data_id="")
    subject = _subject(command, config, recipe)
    if old:
        _check_same(old, config)
        study, space = old, space_from(old.info.space, kind, str(old.directory / FILE))
    else:
        study, space = _new_study(arguments, subject, command, argv)
        subject = replace(subject, config=config_from_dict(study.info.config, kind))
    print(f"study  {shlex.quote(str(_shown(study)))}", flush=True)
    signal = search(study, space, subject, budget, partial(tell_trial, study, space))
    if signal is not None:
        again = f"metronorm tune --study {shlex.quote(str(_shown(study)))}"
        print(f"stopped by {signal.name}; go on with: {again}", file=sys.stderr)
        return 128 + signal
    write_table(study, space, study.known())
    print_findings(study, space)
    return 0


def _check_same_task(old: Study | None, argv: list[str], command: str) -> None:
    """Refuse options of another task than the study's own."""
    if old is None:
        return
    other = value_of("--recipe", argv)
    if other is not None and str(Path(other).absolute()) != old.info.config.get("recipe"):
        got = f"--recipe {other}"
    elif command != old.info.command and (command == "finetune" or value_of("--preset", argv)):
        got = command
    elif value_of("--preset", argv) is not None:
        got = f"--preset {value_of('--preset', argv)}"
    else:
        return
    own = old.info.config.get("recipe") or f"metronorm {old.info.command}"
    raise ConfigError(
        "a study goes on with the task that it is of",
        got=f"{got}, where {old.directory} is of {own}",
        fix="leave it out, or another --study",
    )


def _shown(study: Study) -> Path:
    here = Path.cwd()
    found = study.directory
    return found.relative_to(here) if found.is_relative_to(here) else found


def _old_study(argv: list[str]) -> Study | None:
    named = value_of("--study", argv)
    return open_study(named) if named and (Path(named) / FILE).exists() else None


def _checked(config: Any, argv: list[str], is_recipe: bool) -> Any:
    if config.minutes and value_of("--ticks", argv) is not None:
        raise ConfigError("minutes decide the number of ticks", got="--ticks beside --minutes")
    if is_recipe:
        config = replace(config, recipe=str(Path(config.recipe).absolute()))
    return config


def _check_same(old: Study, config: Any) -> None:
    """Refuse to go on with a study of another config, or of another task."""
    found = changes(old.info.config, config)
    if found:
        raise ConfigError(
            "a study goes on with the config that it was begun with",
            got="; ".join(map(str, found[:4])),
            fix="leave these options out, or another --study",
        )


def _new_study(
    arguments: Any, subject: Subject, command: Literal["train", "finetune"], argv: list[str]
) -> tuple[Study, Space]:
    config = subject.config
    space = (
        read_space(arguments.space, type(config))
        if arguments.space is not None
        else built_in(config, structure=arguments.structure)
    )
    fixed = [name for name in space.names() if value_of(f"--{name}", argv) is not None]
    if fixed:
        raise ConfigError(
            "an option must be searched or be given, and not both",
            got=", ".join(f"--{name}" for name in fixed),
            fix=f"leave it out, or take it out of {space.source}",
        )
    space.check(config)
    if arguments.seeds < 1:
        raise ConfigError("seeds must be at least 1", got=str(arguments.seeds))
    equal: Equal = "seconds" if config.minutes else arguments.equal
    config = with_length(subject, equal, parse_budget(arguments.budget))
    info = Info(
        command=command,
        config=config_to_dict(config),
        space=space.as_dict(),
        equal=equal,
        shares=shares_of(config.ticks, arguments.method),
        method=arguments.method,
        seed=config.seed,
        seeds=arguments.seeds,
        budget=arguments.budget,
    )
    directory = arguments.study or free_directory((_name(config, command),), Path("studies"))
    return create_study(directory, info), space


def _name(config: Any, command: str) -> str:
    if command == "finetune":
        return Path(config.model).name or "finetune"
    if config.recipe:
        return str(config.recipe)
    data = config.text.data
    return data[0] if data else "shakespeare"


def _subject(command: str, config: Any, recipe: Any) -> Subject:
    from metronorm.tune import subjects

    if command == "finetune":
        return subjects.finetuning(config)
    return subjects.training(config, recipe.task if recipe else text.task)
