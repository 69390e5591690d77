"""`metronorm doctor`: what is installed, on what machine, and what does not work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from metronorm.cli.arguments import parse
from metronorm.doctor import examine

DESCRIPTION = """
    metronorm doctor
    metronorm doctor --json > report.json

It prints versions, what the machine has, which packages are missing for what, and problems; paste
it into a bug report. It names neither you nor the machine: your home folder is written as ~.

Exit code 1: something that is needed is broken. Needed are the packages that every command uses,
and torch with the kernels of the norms, if torch is installed. What else is missing or short is
a notice."""

BROKEN = 1


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm doctor`."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the report as JSON."""


def main(argv: list[str]) -> int:
    """Print the report; 1 if something that is needed is broken."""
    arguments = parse(Arguments, argv, command="doctor", description=DESCRIPTION)
    report = examine()
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report.text())
    return BROKEN if report.is_broken else 0
