"""`metronorm train`: from text, or from the data of a recipe, to a trained model."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.cli import sample, show, training
from metronorm.cli._config_file import read_options, with_data_of
from metronorm.cli.arguments import parse, value_of
from metronorm.cli.free_directory import free_directory
from metronorm.cli.recipe import Recipe, load_recipe
from metronorm.errors import ConfigError, MetronormError
from metronorm.finetune.config import is_tuned_run
from metronorm.ranks import find_place
from metronorm.tasks import text
from metronorm.train.config_changes import config_from_dict, run_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.train.config import TrainConfig
    from metronorm.train.loop import Outcome

DESCRIPTION = f"""
    metronorm train                       Shakespeare, 3 to 15 minutes
    metronorm train --data notes/*.txt    your own text
    metronorm train --recipe own.py       your own model and data
    metronorm train --resume runs/NAME    continue a stopped run, bit for bit

{training.SIGNALS}

A resumed run of text takes --data too, if it is the same text in another place, and --cache."""


@dataclass(frozen=True)
class Options(training.Options):
    """Options of `metronorm train` that are no training's own."""

    preset: str = "quick"
    """Defaults of all other options: quick (1 M parameters), small (10 M) or gpt2 (124 M)."""


def options_kind() -> Any:
    """The dataclass of all options, for text: a recipe has others."""
    return training.arguments_of(text.Config, Options)


def main(argv: list[str]) -> int:
    """Train; 0, 128 + the number of the signal that stopped it, or 3 if its end is not saved."""
    ended = training.unless_stopped(lambda: _train(argv))
    return ended if isinstance(ended, int) else _report(*ended)


def _train(argv: list[str]) -> int | tuple[Outcome, str, TrainConfig, Sequence[str]]:
    """How the training has ended; of what trains nothing here, and says nothing: the exit code."""
    resumed = training.run_to_resume(argv)
    file = value_of("--config", argv)
    values = read_options(Path(file)) if file and not resumed else None
    recipe = _recipe(argv, resumed, values)
    kind: Any = recipe.config if recipe else text.Config
    # only text has presets
    hidden = () if kind is text.Config else ("preset",)
    kinds = training.arguments_of(kind, Options, hidden)
    with _own_checks_told(recipe):
        arguments: Any = parse(
            kinds,
            argv,
            command="train",
            description=recipe.description if recipe else DESCRIPTION,
            default=kinds(
                training=default_config(argv, kind, resumed, values),
                preset=value_of("--preset", argv) or "quick",
            ),
        )
    training.check(arguments, arguments.training, argv)
    training.check_mirrors(arguments.mirror)
    training.check_rate(arguments, argv)
    code = training.launched(arguments.processes, "train", argv, dry_run=arguments.dry_run)
    if code is not None:
        return code
    from metronorm.train import train  # torch is loaded only now

    options = arguments.training
    if recipe:
        options = replace(options, recipe=str(Path(options.recipe).absolute()))
    task: Any = recipe.task if recipe else text.task
    if file and values and options.data_id:
        task = with_data_of(file, options.data_id, task)
        options = replace(options, data_id="")
    if arguments.dry_run:
        return training.print_plan(task, options, arguments.processes)
    run = str(resumed or arguments.run or arguments.resume_or_start or _directory(options))
    options = training.with_rate(arguments, task, options, Path(run), resumed=resumed is not None)
    with training.mirrored(arguments.mirror, run):
        outcome = train(
            task, options, Path(run), resume=resumed is not None, from_tick=arguments.from_tick
        )
    if find_place().rank:
        return 128 + outcome.signal if outcome.signal else 0
    return outcome, run, options, arguments.mirror


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


def _recipe(argv: list[str], resumed: Path | None, values: dict[str, Any] | None) -> Recipe | None:
    """The recipe that the arguments, the run or the file of options names."""
    path = value_of("--recipe", argv)
    if path is None and resumed:
        kept = run_config(resumed)
        path = kept.get("recipe")
        if not path and is_tuned_run(resumed):
            raise ConfigError(
                "metronorm train goes on with what it began",
                got=f"{resumed}, a fine-tuning",
                fix=f"metronorm finetune --resume {resumed}",
            )
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


def default_config(
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


def _directory(options: TrainConfig) -> Path:
    if isinstance(options, text.Config):
        return free_directory(options.text.data)
    return free_directory((options.recipe,))


def _report(outcome: Outcome, run: str, options: TrainConfig, mirror: Sequence[str]) -> int:
    again = ["metronorm", "train", "--resume", run]
    if isinstance(options, text.Config) and options.text.cache is not None:
        again += ["--cache", str(options.text.cache)]
    again += ["--mirror", *mirror] if mirror else []
    code = training.stopped(outcome, again)
    if code is not None:
        return code
    named = shlex.quote(run)
    if isinstance(options, text.Config) and options.sample_every:
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
