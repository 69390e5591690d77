"""The comparison of two runs: reads both, and puts the figures side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.runs.comparing.losses import LossAt, Reached, losses_at, reached, read_course
from metronorm.runs.comparing.resources import others_share, read_usage
from metronorm.runs.comparing.times import (
    Measure,
    Times,
    count_ticks,
    measure,
    ratio_of,
    read_times,
)
from metronorm.runs.comparing.words import Verdict, judge, percent, statements
from metronorm.store.schema import UNATTRIBUTED

if TYPE_CHECKING:
    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

LEAST_TICKS = 50
WARM_UP = 20
# the share of a machine that others may use before its times are doubted
BUSY = 0.1


@dataclass(frozen=True)
class Side:
    """One of the two runs; `ticks` are those that count, warm-up left out."""

    name: str
    directory: str
    ticks: int
    ranks: int


@dataclass(frozen=True)
class Comparison:
    """Run B against run A.

    `measures` may have `tick_median_ns` and `tick_mean_ns` (always there), `tokens_per_second`,
    `peak_memory_bytes` (of the largest process), `gpu_memory_bytes` (of the fullest GPU) and
    `tick_processor_ns` (of all processes and their children, per tick). `phases` are means per
    tick, in ns.
    """

    a: Side
    b: Side
    skip: int
    measures: dict[str, Measure]
    phases: dict[str, Measure]
    metric: str | None
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
        a: the run that is compared with.
        b: the run that is compared.
        metric: the metric to compare, one that should fall; `loss` by default, if both have it.
        skip: so many ticks at the beginning of every attempt are warm-up and left out of all times;
            by default 20, or a tenth of the shorter run if that is less.
        limit: by what share B's median tick may be slower, for the verdict: 0.05 is 5 %.

    Raises:
        ConfigError: fewer than 50 ticks are left, `metric` is not in both, or a negative number.
    """
    if limit is not None and not limit >= 0:
        raise ConfigError("a limit must be at least 0", got=str(limit), fix="0.05 for 5 %")
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
                + (f", without the first {skip} of every attempt" if skip else ""),
                got=f"{count} of {run.directory}",
                fix="longer runs" + (", or a smaller skip" if skip else ""),
            )
    first, second = (read_times(table, skip) for table in tables)
    measures = _measures(first, second) | _usage(runs, skip)
    phases = _phases(first, second)
    losses: list[LossAt] = []
    ends: list[Reached] = []
    if metric is not None:
        courses = read_course(tables[0], metric), read_course(tables[1], metric)
        losses, ends = losses_at(*courses), reached(*courses)
    sides = _side(a, tables[0], first), _side(b, tables[1], second)
    return Comparison(
        a=sides[0],
        b=sides[1],
        skip=skip,
        measures=measures,
        phases=phases,
        metric=metric,
        losses=losses,
        reached=ends,
        notes=_notes(sides, runs, (first, second)),
        statements=statements(measures, phases, metric, ends),
        verdict=None if limit is None else judge(measures["tick_median_ns"], limit),
    )


def _metric(runs: tuple[Run, Run], tables: tuple[Table, Table], wanted: str | None) -> str | None:
    """The metric to compare; None if none was asked for and the runs do not both have a loss."""
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
        "the metric must be one that both runs logged",
        got=f"{name!r}, which is not in {' and '.join(dict.fromkeys(lacking))}",
        fix=f"one of {', '.join(both)}" if both else "other runs: these two have none in common",
    )


def _measures(a: Times, b: Times) -> dict[str, Measure]:
    """Tick times; tokens per second, which divide those counted by the time of the ticks."""
    found = {
        "tick_median_ns": measure(a.median, b.median),
        "tick_mean_ns": measure(a.sums.quotient("wall"), b.sums.quotient("wall")),
    }
    if all(times.sums.totals["tokens"] and times.sums.totals["wall"] for times in (a, b)):
        rates = [times.sums.quotient("tokens", "wall", scale=1e9) for times in (a, b)]
        found["tokens_per_second"] = measure(rates[0], rates[1])
    return found


def _phases(a: Times, b: Times) -> dict[str, Measure]:
    """The mean time of each phase that one of them has; none if one recorded no phases at all."""
    if not (a.sums.totals["sampled"] and b.sums.totals["sampled"]):
        return {}
    names = sorted(dict.fromkeys([*a.phases, *b.phases]), key=UNATTRIBUTED.__eq__)
    return {name: measure(a.phase(name), b.phase(name)) for name in names}


def _usage(runs: tuple[Run, Run], skip: int) -> dict[str, Measure]:
    """What both recorded of memory and processor: one figure each, so without intervals."""
    a, b = (read_usage(run.resources(), skip) for run in runs)
    return {name: Measure(a[name], b[name], ratio_of(a[name], b[name])) for name in a if name in b}


def _side(run: Run, table: Table, times: Times) -> Side:
    ranks = table.only("rank").sql("select count(distinct rank) from ticks").fetchall()[0][0]
    return Side(run.info.name, str(run.directory), times.ticks, ranks)


def _notes(
    sides: tuple[Side, Side], runs: tuple[Run, Run], times: tuple[Times, Times]
) -> list[str]:
    """What the figures do not say, and the reader should know."""
    notes = []
    hosts = [f"{run.info.host.get('name')} ({run.info.host.get('processor')})" for run in runs]
    if hosts[0] != hosts[1]:
        notes.append(f"other machines: A on {hosts[0]}, B on {hosts[1]}")
    shares = [others_share(run) for run in runs]
    if any(share is not None and share > BUSY for share in shares):
        used = (
            f"{'an unknown part' if share is None else percent(share)} of {letter}'s machine"
            for letter, share in zip("AB", shares, strict=True)
        )
        notes.append(
            f"other programs used {', '.join(used)}: times are not those of the runs alone, and "
            "intervals know nothing of that"
        )
    if sides[0].ranks != sides[1].ranks:
        notes.append(f"ranks: {sides[0].ranks} in A, {sides[1].ranks} in B")
    tokens = [each.sums.totals["tokens"] / each.ticks for each in times]
    if all(tokens) and not 0.99 < tokens[1] / tokens[0] < 1.01:
        notes.append(
            f"a tick of B has {tokens[1] / tokens[0]:.3g} times the tokens of one of A: tokens per "
            "second say more than tick times"
        )
    return list(dict.fromkeys([*notes, *runs[0].notices(), *runs[1].notices()]))
