"""What the rules read: the ticks of one rank, the sums of all ranks, events and resources."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from metronorm.runs.events import read_events
from metronorm.store.sql_columns import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.runs.diagnosing.stalls import Stall
    from metronorm.runs.events import Event
    from metronorm.runs.history import LeftBehind
    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

MINIMUM_TICKS = 20  # fewer ticks give no reliable share or median
MINIMUM_SAMPLES = 20  # of the machine, about one a second
GPU_IN_USE = 0.02  # a run uses a GPU if its mean utilization is above this
WARM_UP_TICKS = 10  # of an attempt, in which compilers, allocators, caches and loaders start
# SQL conditions on rows of the timeline
WARM = f"age >= {WARM_UP_TICKS}"
STEADY = f"{WARM} and not still"
PLANNED = ("evaluate", "checkpoint", "sample")  # what a loop does on purpose, but not in every tick
_UTILIZATION = re.compile(r"gpu(\d+)_utilization")
_EVENTS = ("end", "dropped", "sampling", "stall", "checkpoint failed")


class Reading:
    """A run, read once for all rules.

    Queries see two tables. `ticks` has the ticks of all ranks in the effective history, with
    `tokens` as the only metric; `table_of` reads other metrics. `timeline` has the ticks of the
    lowest rank: if ranks wait for each other, the time of one rank is the time of all. Its columns,
    with times in nanoseconds:

    | column | |
    | --- | --- |
    | `tick`, `attempt`, `beats` | as in `ticks` |
    | `age` | ticks since the attempt began |
    | `wall` | the time of the tick |
    | `own` | `wall` without planned phases; null if not known |
    | `gc` | the time of the garbage collector; 0 if not known |
    | `work` | tokens, or beats if there are no tokens |
    | `sampled` | whether the phases were measured |
    | `still` | whether the loop stood still; only the rule `stall` reads such a tick |
    | `PHASE_ns` | the time of each phase; 0 if the tick did not have it |
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._all = run.ticks()
        self.columns = self._all.columns
        self.phases, self.metrics = self._all.phases, self._all.metrics
        others = {*self.metrics} - {"tokens"}
        self._ticks = self._all.only(*(name for name in self.columns if name not in others))
        self._sampled = "unattributed_ns is not null" if "unattributed" in self.phases else "false"
        self._gc = "coalesce(gc_ns, 0)" if "gc_ns" in self.columns else "0"
        self.warm = self._warm()
        self.rank: int = self.one("select coalesce(min(rank), 0) from ticks")[0]
        self._make_timeline()
        self.stalls: Sequence[Stall] = ()

    def leave_out(self, stalls: Sequence[Stall]) -> None:
        """Leave out the ticks in which the loop stood still. Call it before all rules."""
        self.stalls = stalls
        if stalls:
            ticks = ", ".join(str(each.tick) for each in stalls)
            self.sql(f"update timeline set still = true where tick in ({ticks})")
            self.warm = f"({self.warm} and tick not in ({ticks}))"

    @cached_property
    def steady_ticks(self) -> int:
        """The number of ticks of `timeline` that are neither warm-up nor stalls."""
        count: int = self.one(f"select count(*) from timeline where {STEADY}")[0]
        return count

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query over `ticks` and `timeline`."""
        if query.split(None, 1)[0] in ("select", "with"):
            return self._ticks.fetch(query)
        return self._ticks.sql(query).fetchall()

    def one(self, query: str) -> tuple[Any, ...]:
        """The first row of a query."""
        return self.sql(query)[0]

    def dicts(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query as dicts by column."""
        relation = self._ticks.sql(query)
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]

    def table_of(self, metrics: Sequence[str]) -> Table:
        """The columns `tick`, `rank` and some metrics of all ranks in the effective history."""
        return self._all.only("tick", "rank", *metrics)

    def worst(self, phase: str) -> dict[str, Any] | None:
        """The row of `totals` with the largest share of a phase after warm-up, and `share`.

        The share of a planned phase is of the time of all ticks, not only of the sampled ones: if
        phases are sampled, the phase may be in all of the sampled ticks, or in none.
        """
        if phase not in self.phases:
            return None
        whole = "warm_time" if phase in PLANNED else "sampled_time"
        rows = [
            row | {"share": row[f"{phase}_ns"] / row[whole]}
            for row in self.totals
            if row.get("sampled_ticks", 0) >= MINIMUM_TICKS and row[whole]
        ]
        return max(rows, key=lambda row: row["share"], default=None)

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return len(self.totals)

    def of_rank(self, rank: int) -> str:
        """The words " on rank 3" if there are several ranks, else nothing."""
        return f" on rank {rank}" if self.ranks > 1 else ""

    @cached_property
    def resources(self) -> Table:
        """The samples of the machine."""
        return self.run.resources()

    @cached_property
    def gpu_utilizations(self) -> list[tuple[int, int, float]]:
        """Rank, number of the GPU, and its mean utilization (0 to 1) after warm-up."""
        names = self.resources.columns
        numbers = [int(found[1]) for name in names if (found := _UTILIZATION.fullmatch(name))]
        if not numbers:
            return []
        means = ", ".join(
            f"avg(gpu{number}_utilization) filter (isfinite(gpu{number}_utilization))"
            for number in numbers
        )
        rows = self.resources.sql(
            f"""select rank, {means} from resources where tick >= {WARM_UP_TICKS}
                group by rank having count(*) >= {MINIMUM_SAMPLES} order by rank"""
        ).fetchall()
        return [
            (rank, number, mean)
            for rank, *found in rows
            for number, mean in zip(numbers, found, strict=True)
            if mean is not None
        ]

    @cached_property
    def events(self) -> list[Event]:
        """The events that rules read, in order of time."""
        names = ", ".join(map(literal, _EVENTS))
        return read_events(self.run.events(), f"event in ({names})")

    @cached_property
    def left_behind(self) -> list[LeftBehind]:
        """The ticks that a later attempt left behind."""
        return self.run.left_behind()

    @cached_property
    def totals(self) -> list[dict[str, Any]]:
        """A row per rank: sums over all its ticks, and over its ticks after warm-up, if any."""
        sums = []
        for phase in self.phases:
            name = identifier(f"{phase}_ns")
            sums.append(f", coalesce(sum({name}), 0)::DOUBLE as {name}")
            if phase in PLANNED:
                sums.append(f", count(*) filter ({name} > 0) as {phase}_ticks")
        sampled = f"filter ({self._sampled})"
        warm = self.dicts(
            f"""select rank, count(*) as warm_ticks, sum(wall_ns)::DOUBLE as warm_time,
                       count(*) {sampled} as sampled_ticks,
                       coalesce(sum(wall_ns) {sampled}, 0)::DOUBLE as sampled_time,
                       sum({self._gc})::DOUBLE as gc_time, max({self._gc}) as longest_gc
                       {"".join(sums)}
                from ticks where {self.warm} group by rank"""
        )
        every = self.dicts(
            """select rank, count(*) as ticks, min(tick) as first, max(tick) as last,
                      sum(wall_ns)::DOUBLE as whole_time, sum(clock_ns)::DOUBLE as clock_time,
                      median(wall_ns) as usual_tick, median(clock_ns) as usual_clock
               from ticks group by rank order by rank"""
        )
        by_rank = {row["rank"]: row for row in warm}
        return [row | by_rank.get(row["rank"], {}) for row in every]

    def _warm(self) -> str:
        """SQL: whether a row of `ticks` is after the warm-up of its attempt."""
        firsts = self.sql("select attempt, min(tick) from ticks group by attempt order by attempt")
        later = (
            f"attempt = {attempt} and tick >= {first + WARM_UP_TICKS}" for attempt, first in firsts
        )
        return f"({' or '.join(later) or 'false'})"

    def _make_timeline(self) -> None:
        phases = [identifier(f"{phase}_ns") for phase in self.phases]
        planned = [f"coalesce({phase}_ns, 0)" for phase in PLANNED if phase in self.phases]
        own = "wall_ns"
        if planned:
            own = f"case when {self._sampled} then wall_ns - ({' + '.join(planned)}) end"
        work = "coalesce(tokens, 0)" if "tokens" in self.metrics else "beats"
        columns = ", ".join(f"coalesce({phase}, 0) as {phase}" for phase in phases)
        self._ticks.sql(
            f"""create or replace temp table timeline as
                select tick, attempt, tick::HUGEINT - min(tick) over (partition by attempt) as age,
                       wall_ns as wall, {own} as own, {self._gc} as gc, beats,
                       {work}::DOUBLE as work, {self._sampled} as sampled, false as still
                       {"," if columns else ""} {columns}
                from ticks where rank = {self.rank} and wall_ns is not null"""
        )
