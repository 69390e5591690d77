"""`metronorm import`: runs of other trackers as runs of Metronorm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import parse
from metronorm.integrations.importing import import_run


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm import`."""

    source: Annotated[Path, tyro.conf.Positional]
    """TensorBoard's event files or a directory with them; a .wandb file, a directory with such
    files, or the history of a W&B run as CSV, JSON or Parquet; trackio's database (.db)."""
    run: Annotated[Path, tyro.conf.Positional]
    """The directory to make the run in, a new one; several runs are in directories below it."""
    format: Literal["auto", "tensorboard", "wandb", "trackio"] = "auto"
    """What the source is; auto: by the names of its files."""


def main(argv: list[str]) -> int:
    """Import, and say where the runs are."""
    arguments = parse(
        Arguments,
        argv,
        command="import",
        description="Make runs of what TensorBoard, Weights & Biases or trackio recorded.",
    )
    for directory in import_run(arguments.source, arguments.run, kind=arguments.format):
        print(f"the run is in {directory}")
    return 0
