"""`metronorm import`: runs of other trackers as runs of Metronorm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import parse
from metronorm.integrations.importing import import_run
from metronorm.text import printable


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm import`."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """TensorBoard's event files, W&B's .wandb files or an exported history, trackio's database."""
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The directory to make the run in, a new one; several runs are in directories below it."""
    format: Literal["auto", "tensorboard", "wandb", "trackio"] = "auto"
    """What the source is; auto: by the names of its files."""


def main(argv: list[str]) -> int:
    """Import, and say where the runs are; what could not come over the importers log."""
    arguments = parse(
        Arguments,
        argv,
        command="import",
        description="Make runs of what TensorBoard, Weights & Biases or trackio recorded.",
    )
    for directory in import_run(arguments.source, arguments.run, kind=arguments.format):
        print(printable(f"the run is in {directory}"))
    return 0
