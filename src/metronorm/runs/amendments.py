"""Amendments: values and phases that were logged after a tick, put into the row of that tick.

The line of the tick is on its way by then, so the clock records events `between`.

| column of the tick | in the amended row |
| --- | --- |
| a metric | the later value replaces the earlier one |
| `PHASE_ns` | the sum of both |
| `wall_ns` | plus the time of the later phases |
| `time_ns` | the end of the later phases |
| `unattributed_ns` | if no phase of the tick was measured: its own `wall_ns` |
| `attempt`, `rank`, `tick`, `beats`, `clock_ns`, `arrival_ns`, `gc_ns` | as it was |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.runs.events import read_events
from metronorm.store.schema import UNATTRIBUTED
from metronorm.store.sql_columns import identifier, select
from metronorm.store.tape import encode
from metronorm.store.unsealed_lines import DECODERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.runs.events import Event
    from metronorm.runs.table import Table

_KEYS = ("attempt", "rank", "tick")
_KEPT = {"beats", "clock_ns", "arrival_ns", "gc_ns"}
_UNATTRIBUTED_NS = f"{UNATTRIBUTED}_ns"
_TIMES = ("time_ns", "wall_ns", _UNATTRIBUTED_NS)
_PREFIX = "metronorm: "  # names a column of the amendments in the join


class Amendments:
    """What was logged after ticks: one row for each tick that has any.

    Args:
        columns: SQL for each column, by its name.
        rows: SQL of the rows, to be put behind `from`.
    """

    def __init__(self, columns: dict[str, str], rows: str) -> None:
        self.columns = {name: sql for name, sql in columns.items() if name not in _KEPT}
        self.rows = rows

    def wanted(self, columns: Iterable[str]) -> list[str]:
        """The columns that a table must read to amend these columns; [] if none of them changes."""
        changeable = {*self.columns, *_TIMES}.difference(_KEYS)
        changed = [name for name in columns if name in changeable]
        return [*_KEYS, "wall_ns", *changed] if changed else []

    def amend(self, ticks: str, columns: list[str], known: set[str]) -> str:
        """SQL of the amended rows.

        Args:
            ticks: SQL of the rows of the ticks.
            columns: the columns of the result.
            known: the columns of the ticks.
        """
        mine = {name: sql for name, sql in self.columns.items() if name in {*columns, *_TIMES}}
        mine |= {name: self.columns[name] for name in _KEYS}
        later = select({_PREFIX + name: sql for name, sql in mine.items()})
        on = " and ".join(f"{identifier(key)} = {_later(key)}" for key in _KEYS)
        amended = select({name: _amended(name, name in known, name in mine) for name in columns})
        amendments = f"select {later} from {self.rows}"
        return f"select {amended} from ({ticks}) left join ({amendments}) on {on}"


def _amended(name: str, known: bool, changed: bool) -> str:
    """SQL of one amended column, by the table of this module.

    Args:
        name: the name of the column.
        known: whether the ticks have it.
        changed: whether the amendments have it.
    """
    own, later, spent = identifier(name), _later(name), _later("wall_ns")
    if name == _UNATTRIBUTED_NS:
        before = own if known else "null"
        return f"if({spent} > 0, coalesce({before}, wall_ns), {before})"
    if name in _KEYS or not changed:
        return own
    if name == "wall_ns":
        return f"{own} + coalesce({spent}, 0)"
    if name == "time_ns":
        return f"if({spent} > 0, greatest({own}, {later}), {own})"
    if not known:
        return later
    is_phase = name.endswith("_ns")
    return f"coalesce({own} + {later}, {later}, {own})" if is_phase else f"coalesce({later}, {own})"


def _later(name: str) -> str:
    return identifier(_PREFIX + name)


def lines_between(events: Table) -> list[tuple[dict[str, int], list[bytes]]]:
    """The amendments as lines of ticks, one for each tick, with the attempt and rank of each tape.

    Args:
        events: the events of the run, at least those called `between`.
    """
    found: dict[tuple[int, int, int], Any] = {}
    for event in read_events(events, "event = 'between'"):
        line = amendment(event)
        if line is None:
            continue
        before = found.setdefault((event.attempt, event.rank, event.tick), line)
        if before is not line:
            before.metrics |= line.metrics
            before.phases |= {
                name: before.phases.get(name, 0) + ns for name, ns in line.phases.items()
            }
            before.time_ns = max(before.time_ns, line.time_ns if line.phases else 0)
    by_place: dict[tuple[int, int], list[bytes]] = {}
    for (attempt, rank, _), line in found.items():
        line.wall_ns = sum(line.phases.values())
        if line.phases:
            line.phases[UNATTRIBUTED] = 0
        by_place.setdefault((attempt, rank), []).append(encode(line))
    return [({"attempt": place[0], "rank": place[1]}, lines) for place, lines in by_place.items()]


def amendment(event: Event) -> Any:
    """The record of a tick that has only the values of an event `between`.

    Args:
        event: the event.

    Returns:
        A `StoredTick`; None if a script has recorded an event of that name with other fields.
    """
    line: dict[str, Any] = {"tick": event.tick, "time_ns": event.time_ns, "wall_ns": 0, "beats": 0}
    line |= {"phases": {}, "metrics": {}}
    try:
        return DECODERS["ticks"].decode(encode(line | event.fields))
    except (msgspec.MsgspecError, TypeError):
        return None
