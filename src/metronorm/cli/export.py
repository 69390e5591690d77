"""`metronorm export`: writes a run as files of other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import RunPath, parse
from metronorm.cli.console import print_notices
from metronorm.integrations.exporting import export_run
from metronorm.runs import open_run
from metronorm.text import printable

DESCRIPTION = """
    metronorm export runs/shakespeare ticks.parquet
    metronorm export runs/shakespeare ticks.csv --overwrite
    metronorm export runs/shakespeare tensorboard/shakespeare

Every tick becomes one row, or one step of TensorBoard."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm export`."""

    run: RunPath
    """Directory of the run."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """A file to write (.csv, .parquet), or a directory for TensorBoard's event files."""
    format: Literal["auto", "tensorboard", "csv", "parquet"] = "auto"
    """Format of the target. auto: by its ending."""
    overwrite: bool = False
    """Replace an existing target. A directory is replaced only if it holds nothing but event
    files."""


def main(argv: list[str]) -> int:
    """Export the run and print where it is."""
    arguments = parse(Arguments, argv, command="export", description=DESCRIPTION)
    run = open_run(arguments.run)
    export_run(run, arguments.target, kind=arguments.format, overwrite=arguments.overwrite)
    print_notices(run.notices())
    print(printable(f"the run is in {arguments.target}"))
    return 0
