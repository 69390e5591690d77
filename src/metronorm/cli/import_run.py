"""`metronorm import`: makes runs of Metronorm from runs of other trackers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import parse
from metronorm.integrations.importing import import_run
from metronorm.text import printable

DESCRIPTION = """
    metronorm import logs/ runs/imported
    metronorm import wandb/offline-run-1 runs/imported --format wandb

What a run of ours cannot hold is left out, with a warning."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm import`."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A file or directory: TensorBoard's event files, W&B's .wandb files or an exported history, or
    trackio's database."""
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A new directory for the run. If the source holds several runs, each gets a directory in
    it."""
    format: Literal["auto", "tensorboard", "wandb", "trackio"] = "auto"
    """Format of the source. auto: by the names of its files."""


def main(argv: list[str]) -> int:
    """Import the runs and print where they are. The importers log what they leave out."""
    arguments = parse(Arguments, argv, command="import", description=DESCRIPTION)
    for directory in import_run(arguments.source, arguments.run, kind=arguments.format):
        print(printable(f"the run is in {directory}"))
    return 0
