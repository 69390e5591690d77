"""`metronorm train`: from text to a trained model."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from metronorm.cli import sample, show
from metronorm.cli.arguments import parse, value_of
from metronorm.clock import read_run_info
from metronorm.errors import ConfigError
from metronorm.train.config import TrainConfig
from metronorm.train.directory import free_directory
from metronorm.train.plain import from_plain
from metronorm.train.presets import training_preset

DESCRIPTION = """
    metronorm train                       Shakespeare, 3 minutes on two cores
    metronorm train --data notes/*.txt    your own text
    metronorm train --preset small        10 M parameters
    metronorm train --resume runs/NAME    continue a stopped run, bit for bit

Ctrl-C and SIGTERM finish the tick, save a checkpoint, and exit with 130 and 143. If the disk is too
full for the last checkpoint, the exit code is 3."""

NOT_SAVED = 3


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm train`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    preset: str = "quick"
    """Defaults of all other options: quick (1 M parameters), small (10 M) or gpt2 (124 M)."""
    run: Path | None = None
    """Directory of the run. None: runs/NAME, with a number if that is taken."""
    resume: Path | None = None
    """Go on with the run in this directory, from its newest whole checkpoint. Only --data (the same
    text in another place), --cache and how often to evaluate, sample and save may differ."""


def main(argv: list[str]) -> int:
    """Train; 0, 128 + the number of the signal that stopped it, or 3 if its end is not saved."""
    preset = value_of("--preset", argv) or None
    resume = value_of("--resume", argv) or None
    if resume is None:
        default = Arguments(training_preset(preset or "quick"), preset=preset or "quick")
    elif preset is None:
        default = Arguments(from_plain(read_run_info(Path(resume)).config))
    else:
        raise ConfigError("--preset is for a new run and --resume goes on with an old one")
    arguments = parse(
        Arguments,
        argv,
        command="train",
        description=DESCRIPTION,
        default=default,
    )
    from metronorm.train import train  # torch is loaded only now

    if arguments.resume is not None and arguments.run is not None:
        raise ConfigError("--run names a new run and --resume an old one", got="both")
    run = str(arguments.resume or arguments.run or free_directory(arguments.config.text.data))
    outcome = train(arguments.config, Path(run), resume=arguments.resume is not None)
    again = ["metronorm", "train", "--resume", run]
    if arguments.config.text.cache is not None:
        again += ["--cache", str(arguments.config.text.cache)]
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
        print(
            f"stopped by {outcome.signal.name} after tick {outcome.tick}; "
            f"go on with: {shlex.join(again)}",
            file=sys.stderr,
        )
        return 128 + outcome.signal
    print("\nwhat it writes now:\n")
    sample.main([run, "--tokens", "300", "--seed", "0"])
    print()
    show.main([run])
    print(f"\nthe run is in {run}")
    named = shlex.quote(run)
    print(
        f"more of its writing: metronorm sample {named}    again this table: metronorm show {named}"
    )
    return 0
