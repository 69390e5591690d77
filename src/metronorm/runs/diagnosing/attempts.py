"""Rules about attempts: errors, repeated ticks, restarts, and checkpoints that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Finding
from metronorm.runs.state import failure
from metronorm.text import counted, percent, short_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading
    from metronorm.runs.events import Event

# The share of the time of all attempts that was lost, or left behind.
REPLAY_SHARE = 0.05
# One or two interruptions are usual.
RESTARTS = 3
# A message may be as long as a traceback.
MESSAGE_LENGTH = 160


def failed(reading: Reading) -> Iterator[Finding]:
    """Find that the newest attempt ended with an error."""
    newest = max(reading.run.attempts, default=0)
    errors = [event for event in reading.events if _failed(event) and event.attempt == newest]
    if not errors:
        return
    first = errors[0]
    message = " ".join(str(first.fields.get("message", "")).split()).rstrip(".")
    if len(message) > MESSAGE_LENGTH:
        message = message[:MESSAGE_LENGTH] + " [...]"
    ranks = sorted({event.rank for event in errors})
    others = f", then on {counted(len(ranks) - 1, 'other rank')}" if len(ranks) > 1 else ""
    yield Finding(
        rule="failed",
        severity="critical",
        what=f"The run ended with {first.fields['error']} at tick {first.tick:,}"
        f"{reading.of_rank(first.rank)}{others}" + (f": {message}." if message else "."),
        advice="Fix the cause and resume the run. With several ranks, look at the first that "
        "failed.",
        evidence={"rank": first.rank, "ranks": ranks, "attempt": newest},
        ticks=[first.tick],
    )


class _Left(NamedTuple):
    """Ticks that were left behind: how many, their time and its share, and where it happened."""

    ticks: int
    ns: float
    share: float
    firsts: list[int]


def replay(reading: Reading) -> Iterator[Finding]:
    """Find ticks that were repeated after a restart."""
    left = _left_behind(reading, branch=False)
    if left is None:
        return
    attempts = len(reading.run.attempts)
    yield Finding(
        rule="replay",
        severity="warning",
        what=f"{percent(left.share)} of the time of all {attempts} attempts was lost: "
        f"{left.ticks:,} ticks ({short_time(left.ns)}) were done after the checkpoint from which "
        "the next attempt started.",
        advice="Write checkpoints more often: on average, a restart loses half of the ticks "
        "between two checkpoints.",
        evidence={
            "share": left.share,
            "attempts": attempts,
            "ticks": left.ticks,
            "lost_ns": left.ns,
        },
        ticks=left.firsts,
    )


def branches(reading: Reading) -> Iterator[Finding]:
    """Find ticks that a branch left behind."""
    left = _left_behind(reading, branch=True)
    if left is None:
        return
    yield Finding(
        rule="branch",
        severity="notice",
        what=f"{left.ticks:,} ticks ({short_time(left.ns)}) of earlier attempts were left behind "
        "by a branch from an earlier checkpoint. That was chosen: it is no loss.",
        advice='The figures of the run leave them out; in Python `ticks("full")` has them.',
        evidence={"share": left.share, "ticks": left.ticks, "left_ns": left.ns},
        ticks=left.firsts,
    )


def _left_behind(reading: Reading, *, branch: bool) -> _Left | None:
    """What branches, or other attempts, left behind; None if that is little of the time."""
    stretches = [each for each in reading.left_behind if each.by.is_branch == branch]
    if not stretches:
        return None
    cases = " ".join(f"when {each.condition} then {each.by.tick}" for each in stretches)
    rows = (
        reading.run.ticks("full")
        .only("attempt", "rank", "tick", "wall_ns")
        .fetch(
            f"""select case {cases} end as first, count(*), sum(wall_ns)::DOUBLE from ticks
                where rank = {reading.rank} group by first order by first"""
        )
    )
    done_ns = sum(row[2] for row in rows)
    left = [row for row in rows if row[0] is not None]
    left_ns = sum(row[2] for row in left)
    if not done_ns or left_ns <= REPLAY_SHARE * done_ns:
        return None
    firsts = [row[0] for row in left][-TICKS_NAMED:]
    return _Left(sum(row[1] for row in left), left_ns, left_ns / done_ns, firsts)


def restarts(reading: Reading) -> Iterator[Finding]:
    """Find that many attempts were interrupted."""
    attempts = reading.run.attempts
    ends = [event for event in reading.events if event.name == "end"]
    errors = {event.attempt for event in ends if _failed(event)}
    whole = {event.attempt for event in ends} - errors
    broken = [attempt for attempt in attempts[:-1] if attempt not in whole]
    if len(broken) < RESTARTS:
        return
    with_error = sum(attempt in errors for attempt in broken)
    yield Finding(
        rule="restarts",
        severity="notice",
        what=f"{len(broken)} of {len(attempts)} attempts were interrupted: {with_error} by an "
        f"error, {len(broken) - with_error} without a message, as when a process is killed.",
        advice="For killed processes, see the log of the machine (out of memory) and of the "
        "scheduler (time limits, preemption).",
        evidence={"attempts": len(attempts), "broken": len(broken), "errors": with_error},
    )


def failed_checkpoints(reading: Reading) -> Iterator[Finding]:
    """Find checkpoints that could not be written."""
    events = [event for event in reading.events if event.name == "checkpoint failed"]
    if not events:
        return
    last = events[-1]
    error = last.fields.get("error")
    yield Finding(
        rule="checkpoint-failed",
        severity="critical",
        what=f"{counted(len(events), 'checkpoint')} could not be written, the last at tick "
        f"{last.tick:,}" + (f": {error}" if error else "."),
        advice="Free space on the disk, and do not end the run before a checkpoint is written.",
        evidence={"checkpoints": len(events), "rank": last.rank},
        ticks=sorted({event.tick for event in events})[-TICKS_NAMED:],
    )


def _failed(event: Event) -> bool:
    return event.name == "end" and failure(event.fields) is not None
