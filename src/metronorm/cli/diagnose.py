"""`metronorm diagnose`: finds what is wrong with runs, the most severe first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import tyro
from rich.padding import Padding
from rich.text import Text

from metronorm.cli.arguments import RunPaths, parse
from metronorm.cli.console import Console, print_notices
from metronorm.cli.reading import read_runs
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, at_least, diagnose, evidence_in_words
from metronorm.text import printable

if TYPE_CHECKING:
    from pathlib import Path

STYLES = {"critical": "bold red", "warning": "bold yellow", "notice": "bold cyan"}

DESCRIPTION = """
    metronorm diagnose runs/shakespeare
    metronorm diagnose runs/* --json
    metronorm diagnose runs/nightly --fail-on critical

The findings are sorted, the most severe first. A run may still be training."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm diagnose`."""

    runs: RunPaths
    """Directories of the runs."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print each finding as a line of JSON."""
    fail_on: Literal["never", "warning", "critical"] = "never"
    """Exit with 1 if a finding is as severe as this or more severe."""


def main(argv: list[str]) -> int:
    """Print the findings of every run; 2 if one could not be read."""
    arguments = parse(Arguments, argv, command="diagnose", description=DESCRIPTION)
    if not arguments.runs:
        raise ConfigError("diagnose needs a run", fix="metronorm diagnose runs/*")
    runs = read_runs(arguments.runs, _diagnose)
    found = runs.found
    print_notices(runs.left_out)
    if arguments.json:
        for path, findings in found.items():
            for finding in findings:
                record = {"run": str(path), **msgspec.to_builtins(finding)}
                print(msgspec.json.encode(record).decode())
    else:
        console = Console()
        for path, findings in found.items():
            show(console, path, findings)
    if runs.failed:
        return 2
    if arguments.fail_on == "never":
        return 0
    return int(any(at_least(findings, arguments.fail_on) for findings in found.values()))


def _diagnose(path: Path) -> list[Finding]:
    run = open_run(path)
    found = diagnose(run)
    print_notices(run.notices())
    if not run.ticks().only("tick").sql("select 1 from ticks limit 1").fetchall():
        print_notices([f"{path}: no ticks are on record"])
    return found


def show(console: Console, path: Path, findings: list[Finding]) -> None:
    """Print the findings of one run."""
    title = Text(printable(str(path)), style="bold")
    if not findings:
        console.print(title.append(": nothing found", style="not bold"))
        return
    console.print(title)
    for finding in findings:
        head = Text(finding.severity, style=STYLES[finding.severity])
        console.print(head.append(f"  {finding.rule}", style="not bold default"))
        evidence = [f"{name} {value}" for name, value in evidence_in_words(finding.evidence)]
        if finding.ticks:
            evidence.append(f"see tick{'s' * (len(finding.ticks) > 1)} {_listed(finding.ticks)}")
        for line, style in (
            (printable(finding.what), ""),
            (printable(finding.advice), "green"),
            (printable(" · ".join(evidence)), "dim"),
        ):
            if line:
                console.print(Padding(Text(line, style=style), (0, 0, 0, 4)))


def _listed(ticks: list[int]) -> str:
    return ", ".join(f"{tick:,}" for tick in ticks)
