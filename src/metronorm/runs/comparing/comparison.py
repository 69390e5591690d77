"""The comparison of two runs: it reads both and puts their figures side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from metronorm.errors import ConfigError
from metronorm.runs.comparing.losses import (
    LossAt,
    Reached,
    last_values,
    losses_at,
    reached,
    read_course,
)
from metronorm.runs.comparing.resources import others_share, read_usage
from metronorm.runs.comparing.statements import Verdict, judge, statements
from metronorm.runs.comparing.times import (
    Measure,
    Times,
    count_ticks,
    measure,
    ratio_of,
    read_times,
)
from metronorm.runs.config import read_config
from metronorm.runs.directions import Direction, better
from metronorm.store.schema import UNATTRIBUTED
from metronorm.text import percent

if TYPE_CHECKING:
    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

LEAST_TICKS = 50
WARM_UP = 20
# a note warns of the times if other programs used more than this share of a machine
BUSY = 0.1


@dataclass(frozen=True)
class Side:
    """One of the two runs. `ticks` is the number of ticks after warm-up."""

    name: str
    directory: str
    ticks: int
    ranks: int


@dataclass(frozen=True)
class Comparison:
    """Run B compared with run A.

    `measures` has `tick_median_ns` and `tick_mean_ns`, and, if both runs recorded them,
    `tokens_per_second`, `peak_memory_bytes` (the largest process), `gpu_memory_bytes` (the fullest
    GPU) and `tick_processor_ns` (CPU time of all processes and their children per tick). `phases`
    has the mean time of each phase per tick, in ns. `notes` are caveats, `statements` sentences
    about the figures. `skip` is the number of warm-up ticks of every attempt. `metric`, `better`
    (which values of it are: None if not known, then `reached` is empty), `losses` and `reached` are
    about the loss; `verdict` is None without a limit.
    """

    a: Side
    b: Side
    skip: int
    measures: dict[str, Measure]
    phases: dict[str, Measure]
    metric: str | None
    better: Direction | None
    losses: list[LossAt]
    reached: list[Reached]
    notes: list[str]
    statements: list[str]
    verdict: Verdict | None


def compare(
    a: Run,
    b: Run,
    *,
    metric: str | None = None,
    skip: int | None = None,
    limit: float | None = None,
) -> Comparison:
    """Compare two runs over their effective histories.

    Args:
        a: the run to compare with.
        b: the run to compare.
        metric: the name of a metric; by default `loss`, if both runs have it.
        skip: the number of warm-up ticks at the beginning of every attempt, which no time includes;
            by default 20, or a tenth of the shorter run if that is less.
        limit: the share by which B's median tick may be slower, for the verdict: 0.05 is 5%.

    Raises:
        ConfigError: fewer than 50 ticks are left, `metric` is not in both runs, or `skip` or
            `limit` is negative.
    """
    if limit is not None and not limit >= 0:
        raise ConfigError("a limit must be at least 0", got=str(limit), fix="0.05 for 5%")
    runs, tables = (a, b), (a.ticks(), b.ticks())
    if skip is None:
        skip = min(WARM_UP, *(count_ticks(table, 0) // 10 for table in tables))
    elif skip < 0:
        raise ConfigError("skip must be a number of ticks", got=str(skip), fix="0")
    metric = _metric(runs, tables, metric)
    for run, table in zip(runs, tables, strict=True):
        if (count := count_ticks(table, skip)) < LEAST_TICKS:
            raise ConfigError(
                f"intervals need at least {LEAST_TICKS} ticks of each run"
                + (f", after the first {skip} of every attempt" if skip else ""),
                got=f"{count} in {run.directory}",
                fix="longer runs" + (", or a smaller skip" if skip else ""),
            )
    first, second = (read_times(table, skip) for table in tables)
    measures = _measures(first, second) | _usage(runs, skip)
    phases = _phases(first, second)
    losses: list[LossAt] = []
    ends: list[Reached] = []
    last = direction = None
    if metric is not None:
        direction = _better(runs, metric)
        sign: Literal[1, -1] = -1 if direction == "higher" else 1
        courses = (
            read_course(tables[0], metric, sign),
            read_course(tables[1], metric, sign),
        )
        losses, last = losses_at(*courses), last_values(*courses)
        ends = reached(*courses) if direction else []
    sides = _side(a, tables[0], first), _side(b, tables[1], second)
    return Comparison(
        a=sides[0],
        b=sides[1],
        skip=skip,
        measures=measures,
        phases=phases,
        metric=metric,
        better=direction,
        losses=losses,
        reached=ends,
        notes=_notes(sides, runs, (first, second)),
        statements=statements(measures, phases, metric, ends, last=last, better=direction),
        verdict=None if limit is None else judge(measures["tick_median_ns"], limit),
    )


def _metric(runs: tuple[Run, Run], tables: tuple[Table, Table], wanted: str | None) -> str | None:
    """The metric to compare; None if no metric was named and `loss` is not in both runs."""
    have = [table.metrics for table in tables]
    name = "loss" if wanted is None else wanted
    if all(name in names for names in have):
        return name
    if wanted is None:
        return None
    both = [name for name in have[0] if name in have[1]]
    lacking = [
        str(run.directory) for run, names in zip(runs, have, strict=True) if name not in names
    ]
    raise ConfigError(
        "both runs must have logged the metric",
        got=f"{name!r}, which is not in {' and '.join(dict.fromkeys(lacking))}",
        fix=f"one of {', '.join(both)}" if both else "other runs: these two share no metric",
    )


def _better(runs: tuple[Run, Run], metric: str) -> Direction | None:
    """Which values of the metric are better; None if the runs contradict each other."""
    found = {better(metric, read_config(run, run.events())) for run in runs} - {None}
    return found.pop() if len(found) == 1 else None


def _measures(a: Times, b: Times) -> dict[str, Measure]:
    """Tick times, and tokens per second: the tokens logged over the time of the ticks."""
    found = {
        "tick_median_ns": measure(a.median, b.median),
        "tick_mean_ns": measure(a.sums.quotient("wall"), b.sums.quotient("wall")),
    }
    if all(times.sums.totals["tokens"] and times.sums.totals["wall"] for times in (a, b)):
        rates = [times.sums.quotient("tokens", "wall", scale=1e9) for times in (a, b)]
        found["tokens_per_second"] = measure(rates[0], rates[1])
    return found


def _phases(a: Times, b: Times) -> dict[str, Measure]:
    """The mean time of each phase of either run; nothing if one run recorded no phases."""
    if not (a.sums.totals["sampled"] and b.sums.totals["sampled"]):
        return {}
    names = sorted(dict.fromkeys([*a.phases, *b.phases]), key=UNATTRIBUTED.__eq__)
    return {name: measure(a.phase(name), b.phase(name)) for name in names}


def _usage(runs: tuple[Run, Run], skip: int) -> dict[str, Measure]:
    """Memory and CPU time, if both recorded them: a single figure of each run, so no interval."""
    a, b = (read_usage(run.resources(), skip) for run in runs)
    return {name: Measure(a[name], b[name], ratio_of(a[name], b[name])) for name in a if name in b}


def _side(run: Run, table: Table, times: Times) -> Side:
    ((ranks,),) = table.only("rank").fetch("select count(distinct rank) from ticks")
    return Side(run.info.name, str(run.directory), times.ticks, ranks)


def _notes(
    sides: tuple[Side, Side], runs: tuple[Run, Run], times: tuple[Times, Times]
) -> list[str]:
    """Caveats that the figures do not show."""
    notes = []
    hosts = [f"{run.info.host.get('name')} ({run.info.host.get('processor')})" for run in runs]
    if hosts[0] != hosts[1]:
        notes.append(f"different machines: A on {hosts[0]}, B on {hosts[1]}")
    shares = [others_share(run) for run in runs]
    if any(share is not None and share > BUSY for share in shares):
        used = (
            f"{'an unknown part' if share is None else percent(share)} of {letter}'s machine"
            for letter, share in zip("AB", shares, strict=True)
        )
        notes.append(
            f"other programs used {', '.join(used)}: they change the times, and the intervals do "
            "not show that"
        )
    if sides[0].ranks != sides[1].ranks:
        notes.append(f"different numbers of ranks: {sides[0].ranks} in A, {sides[1].ranks} in B")
    tokens = [each.sums.totals["tokens"] / each.ticks for each in times]
    if all(tokens) and not 0.99 < tokens[1] / tokens[0] < 1.01:
        notes.append(
            f"a tick of B has {tokens[1] / tokens[0]:.3g} times as many tokens as a tick of A: "
            "compare tokens per second instead of tick times"
        )
    return list(dict.fromkeys([*notes, *runs[0].notices(), *runs[1].notices()]))
