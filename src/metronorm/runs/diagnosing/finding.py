"""What a rule returns, and how its sentences spell numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from metronorm.text import short_time, three_digits

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["notice", "warning", "critical"]
Evidence = dict[str, float | int | list[int]]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "notice")

TICKS_NAMED = 10


@dataclass(frozen=True)
class Finding:
    """Something amiss.

    Args:
        rule: which rule found it: a short name.
        severity: `critical`: the run or a part of it is lost, wrong, or soon will be. `warning`: it
            costs a lot, or is probably wrong. `notice`: good to know.
        what: one sentence with the numbers.
        evidence: the numbers by themselves, units in their names; `share` is of the run's time.
        ticks: the ticks to look at, at most ten.
        advice: one sentence on what to do.
    """

    rule: str
    severity: Severity
    what: str
    advice: str
    evidence: Evidence = field(default_factory=dict)
    ticks: list[int] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of the run's time that this is about; 0 where it is not about time."""
        share = self.evidence.get("share", 0.0)
        return 0.0 if isinstance(share, list) else float(share)


def at_least(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    """The findings that are as severe as `severity`, or more."""
    wanted = SEVERITIES[: SEVERITIES.index(severity) + 1]
    return [finding for finding in findings if finding.severity in wanted]


def spelled(evidence: Evidence) -> list[tuple[str, str]]:
    """Evidence for people: `("mean", "31 ms")` for `mean_ns`."""
    return [_spelled(name, value) for name, value in evidence.items()]


def _spelled(name: str, value: float | int | list[int]) -> tuple[str, str]:
    if isinstance(value, list):
        return name, ", ".join(map(str, value))
    for end, spell in (("_ns", short_time), ("_bytes", size)):
        if name.endswith(end):
            return name.removesuffix(end).replace("_", " "), spell(value)
    words = name.replace("_", " ")
    if name.endswith(("share", "change", "utilization")):
        return words, f"{value:.1%}"
    if name.startswith("bytes_per_"):
        return words.removeprefix("bytes "), size(value)
    return words, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def size(count: float) -> str:
    """Bytes in the unit that suits: "512 MiB"."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= one:
            return f"{three_digits(count / one)} {unit}"
    return f"{three_digits(count)} bytes"


def counted(number: int, name: str) -> str:
    """A number of things: "1 tick", "12,000 ticks"."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"
