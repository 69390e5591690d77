"""`metronorm seal`: finished stretches of tape become Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metronorm.cli.arguments import parse
from metronorm.errors import ConfigError, RunError
from metronorm.store.sealing import seal_run

DESCRIPTION = """Turn what is finished of runs into Parquet, and put on their tapes what killed
processes have left in this machine's memory. Clocks do it by themselves when they close; what a
living process writes is left to it."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm seal`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Directories of the runs."""


def main(argv: list[str]) -> int:
    """Seal, and print how many parts were made."""
    arguments = parse(Arguments, argv, command="seal", description=DESCRIPTION)
    if not arguments.runs:
        raise ConfigError("seal needs a run", fix="metronorm seal runs/*")
    for run in arguments.runs:
        try:
            made = seal_run(run)
        except OSError as error:
            raise RunError(
                "a run's directory must be writable and have room",
                got=f"{error.filename or run}: {error.strerror or error}",
            ) from None
        print(f"{run}: {made} part{'' if made == 1 else 's'} sealed")
    return 0
