"""`metronorm runs`: list runs, tag them, put them away, and delete them."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import tyro
from rich.table import Table
from rich.text import Text

from metronorm.board.finding import find_runs
from metronorm.board.notes import change_notes, read_notes
from metronorm.cli.arguments import parse
from metronorm.cli.console import Console, print_notices
from metronorm.cli.listed_runs import Listed, list_runs
from metronorm.cli.show_chosen import check_last
from metronorm.errors import ConfigError
from metronorm.runs.moving import archive, delete, directories_of, restore
from metronorm.text import counted, of_planned, printable, size

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = """
    metronorm runs                         list those below runs/, newest first
    metronorm runs runs/a --tag baseline
    metronorm runs runs/a --archive        move it to runs/.archive
    metronorm runs runs/a --delete         asks first

A folder stands for all runs below it in a list, and for nothing in the other cases."""

_ACTIONS = ("archive", "restore", "delete")
_Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm runs`."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN [RUN ...]]")
    ] = ()
    """Directories of runs, or of folders that hold runs. None: runs/."""
    tag: tuple[str, ...] = ()
    """Tags to add, as on the board."""
    untag: tuple[str, ...] = ()
    """Tags to remove."""
    archive: _Flag = False
    """Move runs to the folder .archive beside them, which patterns and the board pass over."""
    restore: _Flag = False
    """Move runs out of .archive again."""
    delete: _Flag = False
    """Delete runs, with their checkpoints, for ever."""
    yes: _Flag = False
    """Delete without asking."""
    last: int | None = None
    """List only so many runs, those that were created last. None: all."""
    json: _Flag = False
    """Print the list as JSON."""


def main(argv: list[str]) -> int:
    """List runs, or change them; 2 if a run of the list is damaged."""
    arguments = parse(Arguments, argv, command="runs", description=DESCRIPTION)
    chosen = [name for name in _ACTIONS if getattr(arguments, name)]
    tagging = [name for name in ("tag", "untag") if getattr(arguments, name)]
    if both := {*arguments.tag} & {*arguments.untag}:
        raise ConfigError("a tag is added or taken away", got=f"both for {min(both)!r}")
    if "" in arguments.tag:
        raise ConfigError("a tag must have a letter", got="--tag ''")
    if len(chosen) + bool(tagging) > 1:
        raise ConfigError(
            "runs are tagged, archived, restored or deleted, one of these at a time",
            got=", ".join(f"--{name}" for name in [*chosen, *tagging]),
        )
    if not chosen and not tagging:
        return _print_list(arguments)
    if not arguments.runs:
        raise ConfigError("name the runs that are to change", fix="metronorm runs RUN --tag NAME")
    runs = directories_of(arguments.runs)
    if arguments.delete:
        if not (arguments.yes or _agreed(runs)):
            return 1
        delete(runs)
        print(f"deleted: {counted(len(runs), 'run')}")
    elif chosen:
        for run, there in (archive if arguments.archive else restore)(runs).items():
            print(printable(f"{run} is now {there}"))
    else:
        for run in runs:
            tags = [tag for tag in read_notes(run).tags if tag not in arguments.untag]
            notes = change_notes(run, {"tags": [*tags, *arguments.tag]})
            print(printable(f"{run}: {', '.join(notes.tags) or 'no tags'}"))
    return 0


def _print_list(arguments: Arguments) -> int:
    if arguments.last is not None:
        check_last(arguments.last)
    for root in arguments.runs:
        if not root.is_dir():
            raise ConfigError(
                "a run is a directory, or in one",
                got=f"{root}, which is none",
                fix="metronorm runs, which lists the runs below the folder runs",
            )
    found = find_runs(arguments.runs or [Path("runs")])
    listed = list_runs(found.runs, newest=arguments.last)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(listed)).decode())
    elif listed:
        _print_table(listed, len(found.runs))
    else:
        print("no runs; one begins with: metronorm train")
    print_notices(found.notices)
    print_notices(f"{one.directory}: {one.problem}" for one in listed if one.problem)
    return 2 if any(one.problem for one in listed) else 0


def _print_table(listed: Sequence[Listed], number: int) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("state", max_width=24)
    table.add_column("ticks", justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("tags", overflow="fold")
    for one in listed:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created_ns / 1e9))
        cells = (
            one.directory,
            one.state,
            of_planned(one.ticks, one.planned),
            created if one.created_ns else "",
            size(one.disk_bytes),
            ", ".join([*("★" for _ in range(one.starred)), *one.tags]),
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = Console()
    console.print(table)
    total = size(sum(one.disk_bytes for one in listed))
    kept = size(sum(one.checkpoint_bytes for one in listed))
    shown = (
        counted(number, "run") if len(listed) == number else f"{len(listed):,} of {number:,} runs"
    )
    console.print(Text(f"{shown}, {total}, {kept} of it checkpoints", "dim"))


def _agreed(runs: Sequence[Path]) -> bool:
    """Whether the user agrees that these runs are deleted."""
    listed = list_runs(runs)
    total = size(sum(one.disk_bytes for one in listed))
    for one in listed:
        ticks = counted(one.ticks, "tick")
        print(printable(f"{one.directory}: {one.state}, {ticks}, {size(one.disk_bytes)}"))
    if not sys.stdin.isatty():
        raise ConfigError(
            "somebody must agree to a deletion", got="no terminal to ask at", fix="--yes"
        )
    answer = input(f"Delete {counted(len(runs), 'run')}, {total}, for ever? [y/N] ")
    return answer.strip().lower() in ("y", "yes")
