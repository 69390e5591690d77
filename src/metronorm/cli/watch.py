"""`metronorm watch`: runs as they go, in the terminal."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.cli import watch_page as page
from metronorm.cli.arguments import RunPaths, parse
from metronorm.cli.console import Console, print_notices
from metronorm.cli.reading import read_runs
from metronorm.errors import ConfigError
from metronorm.runs.following import Follower
from metronorm.store.run_directory import RUN_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

WAIT_SECONDS = 0.5
# terminals without a cursor that can be moved
_NO_PAGES = ("", "dumb", "unknown")

DESCRIPTION = """
    metronorm watch runs/shakespeare
    metronorm watch runs/a runs/b
    metronorm watch runs/next --wait

It shows curves, phases, the machine, events and ranks. Keys: q quits, space pauses, left and right
choose the metric, up and down choose the run, r shows the ranks. Without a terminal, or where TERM
is dumb, it prints the runs once, as they are now."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm watch`."""

    runs: RunPaths
    """Directories of the runs."""
    wait: bool = False
    """Wait for runs that have not started yet."""


def main(argv: list[str]) -> int:
    """Follow the runs; without a terminal, show them once; 2 if one could not be read."""
    arguments = parse(Arguments, argv, command="watch", description=DESCRIPTION)
    if not arguments.runs:
        raise ConfigError("watch needs a run", fix="metronorm watch runs/*")
    runs = list(dict.fromkeys(arguments.runs))
    if arguments.wait:
        wait_for([run for run in runs if not run.is_file()])
    read = read_runs(runs, _follow)
    print_notices(read.left_out)
    followers = list(read.found.values())
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in _NO_PAGES:
        from metronorm.cli.watch_app import WatchApp  # Textual is loaded only now

        WatchApp(followers).run()
    else:
        console = Console()
        console.print(page.whole([follower.read() for follower in followers], console.width))
    return 2 if read.failed else 0


def _follow(path: Path) -> Follower:
    follower = Follower(path)
    follower.read()
    return follower


def wait_for(runs: Sequence[Path], sleep: Callable[[float], None] = time.sleep) -> None:
    """Return once all the runs are there."""
    missing = [run for run in runs if not (run / RUN_FILE).exists()]
    if missing:
        print(f"waiting for {', '.join(map(str, missing))} (Ctrl-C to stop)", file=sys.stderr)
    for run in missing:
        while not (run / RUN_FILE).exists():
            sleep(WAIT_SECONDS)
