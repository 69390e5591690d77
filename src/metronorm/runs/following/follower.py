"""Following a run while other processes write it.

`Follower(path).read()` returns a `Snapshot`. The first call reads the whole run:

| a call of `read()` finds | it reads |
| --- | --- |
| nothing was read yet | the whole run |
| another run, attempt or rank than before | the whole run |
| a tape that was sealed in between, or the first tick of an attempt | the whole run |
| an event that says where an attempt begins, or with what config | the whole run |
| anything else | the ends of the tapes, so its time does not grow with the run |
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import RunError
from metronorm.runs.amendments import amendment
from metronorm.runs.config import planned_ticks, with_changes, with_file
from metronorm.runs.curves import TICK_TIME, Curves
from metronorm.runs.events import Event, read_events
from metronorm.runs.following.recent import EVENTS, RESOURCE_WINDOW_NS, WINDOW, Recent
from metronorm.runs.following.snapshot import Snapshot
from metronorm.runs.following.tail import Tail
from metronorm.runs.history import BEGINNINGS
from metronorm.runs.reader import open_run
from metronorm.runs.state import STATE_EVENTS, attempt_state
from metronorm.runs.units import units_of
from metronorm.store.run_directory import folder_number, numbered_folders, read_run_info
from metronorm.store.schema import KINDS, TickRecord
from metronorm.store.sql_columns import identifier, literal

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from metronorm.runs.table import Table
    from metronorm.store.run_directory import RunInfo

    Place = tuple[str, int]  # kind and rank

# the events of an attempt that change what is shown of older attempts and of the config
_READ_AGAIN = (*BEGINNINGS, "changed")


class Follower:
    """Reads a run again and again.

    Args:
        path: the directory of the run.
        now: returns the time in nanoseconds since 1970.

    Raises:
        RunError: the directory has no run.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, now: Callable[[], int] = time.time_ns
    ) -> None:
        self.directory = Path(path)
        self._now = now
        self._tapes: dict[Place, Path] = {}
        self._tails: dict[Place, Tail] = {}
        self._identity = read_run_info(self.directory).id

    def read(self) -> Snapshot:
        """Read the run as it is now.

        Raises:
            RunError: the run no longer exists, or cannot be read.
        """
        info = read_run_info(self.directory)
        attempts = numbered_folders(self.directory / "ticks", "attempt")
        newest = max(map(folder_number, attempts), default=-1)
        tapes = {
            (kind, folder_number(path)): path
            for kind in KINDS
            for path in numbered_folders(self.directory / kind / f"attempt={newest}", "rank")
        }
        same = (info.id, tapes) == (self._identity, self._tapes)
        if not (self._tails and same and self._follow()):
            self._identity, self._tapes = info.id, tapes
            self._attempt = newest
            self._begin(newest)
        return self._snapshot(info, len(attempts))

    def _follow(self) -> bool:
        """Read the new records; False if they do not continue what was read before."""
        try:
            for (kind, rank), tail in self._tails.items():
                records = tail.read()
                if records is None:
                    return False
                if records and kind == "ticks" and (kind, rank) not in self._read_until:
                    return False  # this tick may replace ticks of older attempts
                for record in records:
                    if record.time_ns > self._read_until.get((kind, rank), -1):
                        if kind == "events" and record.event in _READ_AGAIN:
                            return False
                        self._add(kind, rank, record)
        except OSError:
            return False
        return True

    def _add(self, kind: str, rank: int, record: Any) -> None:
        if kind == "ticks":
            self._recent.add_tick(rank, record)
            self._curves.add(record.tick, {**record.metrics, TICK_TIME: record.wall_ns})
        elif kind == "resources":
            self._recent.add_sample(rank, record.time_ns, record.values)
        else:
            attempt, time_ns = self._attempt, record.time_ns
            event = Event(record.event, attempt, rank, record.tick, time_ns, record.fields)
            self._recent.add_event(event)
            self._recent.attempt_events.add(event.name, rank, event.fields)
            if event.name == "between":
                self._amend(event)

    def _amend(self, event: Event) -> None:
        """Add to a tick what was logged after it ended."""
        found = amendment(event)
        if found is not None:
            self._curves.add(found.tick, found.metrics)
            self._recent.amend_tick(event.rank, found)

    def _begin(self, attempt: int) -> None:
        """Read the whole run."""
        import duckdb

        for last_try in (False, True):
            try:
                identity = self._identity
                # the tails first: records that come meanwhile are then met twice, but not missed
                self._tails = {
                    (kind, rank): Tail(folder, kind, identity)
                    for (kind, rank), folder in self._tapes.items()
                }
                self._recent = Recent()
                run = open_run(self.directory)
                ticks = run.ticks()
                self._curves = Curves(ticks)
                events = run.events()
                self._config = with_changes(run, events)
                self._read_until = {
                    **self._begin_ticks(ticks, attempt),
                    **self._begin_samples(run.resources(), attempt),
                    **self._begin_events(events, attempt),
                }
                return
            except (OSError, duckdb.Error) as error:  # files may have been replaced meanwhile
                self._tails = {}
                if last_try:
                    raise RunError(
                        "a run must be readable", got=f"{self.directory}: {error}"
                    ) from None

    def _begin_ticks(self, ticks: Table, attempt: int) -> dict[Place, int]:
        phases = ticks.phases
        columns = {"attempt", "rank", "tick", "time_ns", "wall_ns", "beats"}
        units = units_of(ticks.metrics)
        columns |= {"arrival_ns"}.intersection(ticks.columns)
        ticks = ticks.only(*columns, *units, *(f"{name}_ns" for name in phases))
        arrival = "t.arrival_ns" if "arrival_ns" in columns else "null"
        counts = "".join(f", t.{identifier(unit)}" for unit in units)
        spent = "".join(f", t.{identifier(name + '_ns')}" for name in phases)
        rows = ticks.sql(
            f"""with newest as (
                    select attempt, rank, max(tick) as tick from ticks
                    where attempt = (select max(attempt) from ticks) group by attempt, rank)
                select t.attempt, t.rank, t.tick, t.time_ns, t.wall_ns, t.beats,
                       {arrival} {counts} {spent}
                from ticks t join newest n on t.attempt = n.attempt and t.rank = n.rank
                where t.tick > n.tick::HUGEINT - {WINDOW} order by t.time_ns"""
        ).fetchall()
        until: dict[Place, int] = {}
        for of, rank, tick, time_ns, wall_ns, beats, arrival_ns, *values in rows:
            counted, accounts = values[: len(units)], values[len(units) :]
            self._recent.add_tick(
                rank,
                TickRecord(
                    tick,
                    time_ns,
                    wall_ns,
                    beats,
                    {name: ns for name, ns in zip(phases, accounts, strict=True) if ns is not None},
                    {
                        unit: count
                        for unit, count in zip(units, counted, strict=True)
                        if count is not None
                    },
                    0,
                    arrival_ns,
                ),
            )
            if of == attempt:
                until["ticks", rank] = time_ns
        return until

    def _begin_samples(self, resources: Table, attempt: int) -> dict[Place, int]:
        rows = resources.sql(
            f"""select * from resources where attempt = {attempt}
                and time_ns >= -{RESOURCE_WINDOW_NS} + (
                    select max(time_ns) from resources where attempt = {attempt})
                order by time_ns"""
        )
        until: dict[Place, int] = {}
        for row in rows.fetchall():
            sample = dict(zip(rows.columns, row, strict=True))
            rank, time_ns = sample["rank"], sample["time_ns"]
            values = {
                name: value
                for name, value in sample.items()
                if value is not None and name not in ("attempt", "rank", "tick", "time_ns")
            }
            self._recent.add_sample(rank, time_ns, values)
            until["resources", rank] = time_ns
        return until

    def _begin_events(self, events: Table, attempt: int) -> dict[Place, int]:
        names = ", ".join(map(literal, STATE_EVENTS))
        newest = f"select time_ns from events order by time_ns desc limit {EVENTS}"
        found = read_events(
            events,
            f"""time_ns >= (select min(time_ns) from ({newest}))
                or (attempt = {attempt} and event in ({names}))""",
        )
        until: dict[Place, int] = {}
        for event in found:
            self._recent.add_event(event)
            if event.attempt == attempt:
                until["events", event.rank] = event.time_ns
                self._recent.attempt_events.add(event.name, event.rank, event.fields)
        return until

    def _snapshot(self, info: RunInfo, attempts: int) -> Snapshot:
        recent, curves = self._recent, self._curves
        ranks = recent.ranks()
        tapes = [rank for kind, rank in self._tapes if kind == "ticks"]
        state = attempt_state(self.directory, tapes, recent.attempt_events)
        total = planned_ticks(with_file(self._config, self.directory))
        tick = max((rank.tick for rank in ranks), default=0)
        speeds = [rank.ticks_per_second for rank in ranks if rank.ticks_per_second is not None]
        speed = sum(speeds) / len(speeds) if speeds else None
        rates = [rank.per_second for rank in ranks if rank.per_second is not None]
        left = (total - tick) / speed if total and speed and state == "running" else None
        metrics = [name for name in curves.latest if name != TICK_TIME]
        first = recent.first_rank()
        return Snapshot(
            name=info.name,
            directory=str(self.directory),
            time_ns=self._now(),
            state=state,
            attempts=attempts,
            total=total,
            tick=tick,
            tick_time_ns=max((rank.time_ns for rank in ranks), default=None),
            median_tick_ns=statistics.median(r.tick_ns for r in ranks) if ranks else None,
            ticks_per_second=speed,
            unit=recent.unit(),
            per_second=sum(rates) if rates else None,
            seconds_left=None if left is None else max(left, 0.0),
            phases=recent.phases(),
            latest={name: curves.latest[name] for name in metrics},
            curves={name: curves.curve(name) for name in metrics},
            tick_ns=curves.curve(TICK_TIME),
            resources=recent.resources(first),
            rates=recent.rates(first),
            ranks=ranks,
            events=recent.events(),
        )
