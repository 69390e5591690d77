"""What a rule returns, and its evidence in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from metronorm.store.schema import UNATTRIBUTED
from metronorm.text import percent, short_time, size

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["notice", "warning", "critical"]
Evidence = dict[str, float | int | list[int]]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "notice")

TICKS_NAMED = 10


@dataclass(frozen=True)
class Finding:
    """A problem of a run.

    Args:
        rule: the short name of the rule that found it.
        severity: `critical` if the run or a part of it is lost or wrong, or soon will be; `warning`
            if it costs a lot or is probably wrong; `notice` if it is good to know.
        what: a sentence with the numbers.
        advice: what to do.
        evidence: the numbers, with units in their names; `share` is a share of the run's time.
        ticks: the ticks to look at, at most ten.
    """

    rule: str
    severity: Severity
    what: str
    advice: str
    evidence: Evidence = field(default_factory=dict)
    ticks: list[int] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of the run's time that this is about; 0 if it is not about time."""
        share = self.evidence.get("share", 0.0)
        return 0.0 if isinstance(share, list) else float(share)


def at_least(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    """The findings that are at least as severe as `severity`."""
    wanted = SEVERITIES[: SEVERITIES.index(severity) + 1]
    return [finding for finding in findings if finding.severity in wanted]


def evidence_in_words(evidence: Evidence) -> list[tuple[str, str]]:
    """Evidence for people: `("mean", "31 ms")` for `mean_ns`."""
    return [_in_words(name, value) for name, value in evidence.items()]


def _in_words(name: str, value: float | int | list[int]) -> tuple[str, str]:
    if isinstance(value, list):
        return name, ", ".join(map(str, value))
    for end, form in (("_ns", short_time), ("_bytes", size)):
        if name.endswith(end):
            return name.removesuffix(end).replace("_", " "), form(value)
    words = name.replace("_", " ")
    if name.endswith(("share", "change", "utilization")):
        return words, percent(value)
    if name.startswith("bytes_per_"):
        return words.removeprefix("bytes "), size(value)
    return words, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def in_phase(phase: str) -> str:
    """Where time was spent: "in forward", or "in no phase"."""
    return "in no phase" if phase == UNATTRIBUTED else f"in {phase}"
