"""`metronorm completion`: the script by which a shell completes commands, options and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from metronorm.cli._shells import Shell, install, script
from metronorm.cli.arguments import parse
from metronorm.text import printable

DESCRIPTION = """
    metronorm completion bash --install
    metronorm completion zsh > ~/.zfunc/_metronorm
    metronorm completion fish | source

The script knows all commands and options and runs nothing, so TAB is quick. Write it again after
an upgrade."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm completion`."""

    shell: Annotated[Shell, tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")]
    """bash, zsh or fish."""
    install: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the script where the shell looks for it, and print the name of the file. No other file
    is changed."""


def main(argv: list[str]) -> int:
    """Print the script, or write it to its place."""
    arguments = parse(Arguments, argv, command="completion", description=DESCRIPTION)
    if not arguments.install:
        print(script(arguments.shell), end="")
        return 0
    place = install(arguments.shell)
    print(printable(f"the script is in {place.file}; new shells use it"))
    if place.condition:
        print(printable(place.condition))
    return 0
