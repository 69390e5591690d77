"""Finding problems of a run: rules over its ticks, resources and events.

>>> from metronorm.clock import Clock
>>> from metronorm.runs import open_run
>>> from metronorm.runs.diagnosing import diagnose
>>> with Clock("runs/mine", progress=False) as clock:
...     for _ in clock.ticks(range(1)):
...         clock.log(loss=float("nan"))
>>> [(finding.rule, finding.severity, finding.ticks) for finding in diagnose(open_run("runs/mine"))]
[('not-finite', 'critical', [1])]

docs/diagnosis.md lists the rules and their thresholds. Each file here begins with its thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.attempts import (
    branches,
    failed,
    failed_checkpoints,
    replay,
    restarts,
)
from metronorm.runs.diagnosing.finding import (
    SEVERITIES,
    Finding,
    Severity,
    at_least,
    evidence_in_words,
)
from metronorm.runs.diagnosing.garbage import garbage
from metronorm.runs.diagnosing.learning import learning
from metronorm.runs.diagnosing.losses import losses
from metronorm.runs.diagnosing.machine import idle_gpus, memory
from metronorm.runs.diagnosing.ranks import stragglers
from metronorm.runs.diagnosing.reading import Reading
from metronorm.runs.diagnosing.recording import clock_cost, lost_records, sampling
from metronorm.runs.diagnosing.shares import data_bound, planned, small_beats, unattributed
from metronorm.runs.diagnosing.stalls import find_stalls, stalls
from metronorm.runs.diagnosing.tick_time import drift, slow_ticks, warm_up
from metronorm.runs.diagnosing.values import not_finite

if TYPE_CHECKING:
    from metronorm.runs.reader import Run

__all__ = ["SEVERITIES", "Finding", "Severity", "at_least", "diagnose", "evidence_in_words"]

RULES = (
    failed,
    not_finite,
    losses,
    learning,
    lost_records,
    memory,
    stalls,
    failed_checkpoints,
    data_bound,
    garbage,
    planned,
    stragglers,
    idle_gpus,
    drift,
    slow_ticks,
    replay,
    branches,
    restarts,
    warm_up,
    small_beats,
    unattributed,
    clock_cost,
    sampling,
)


def diagnose(run: Run) -> list[Finding]:
    """Find the problems of a run, which may still be running.

    All rules but `replay`, `branches` and `restarts` read the effective history. A rule finds
    nothing if the record lacks what it needs, or has too few ticks.

    Args:
        run: the run, from `open_run`.

    Returns:
        Findings, the most severe first. Those of one severity are ordered by their share of the
        run's time.
    """
    reading = Reading(run)
    reading.leave_out(find_stalls(reading))
    found = [finding for rule in RULES for finding in rule(reading)]
    return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), -one.share))
