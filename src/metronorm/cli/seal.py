"""`metronorm seal`: turns finished stretches of tape into Parquet."""

from __future__ import annotations

from dataclasses import dataclass

from metronorm.cli.arguments import RunPaths, parse
from metronorm.errors import ConfigError, RunError
from metronorm.store.sealing import seal_run

DESCRIPTION = """
    metronorm seal runs/shakespeare
    metronorm seal runs/*

First, what killed processes left in this machine's shared memory is written to their tapes. A clock
seals its own tape when it closes, so this is needed after a kill only. Tapes that a living process
writes are left alone. Damaged parts are set aside under another name."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm seal`."""

    runs: RunPaths
    """Directories of the runs."""


def main(argv: list[str]) -> int:
    """Seal the runs, and print how many parts were made of each."""
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
