"""The schema of a run's records: their kinds, the lines on the tape, and the columns.

| kind | a line on the tape | columns |
| --- | --- | --- |
| `ticks` | `TickRecord` | its plain fields, `PHASE_ns` for each phase, and one for each metric |
| `events` | `EventRecord` | its fields; `fields` is JSON |
| `resources` | `ResourceRecord` | its plain fields, and one for each value |

Every table also has `attempt` and `rank`, which come from the names of the folders. JSON has no NaN
and no infinities: on the tape such a metric is the text "nan", "inf" or "-inf".
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

KINDS = ("ticks", "events", "resources")

SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1  # that a column holds

UNATTRIBUTED = "unattributed"  # the phase of the time that no phase covers

# names of a record's own columns, which no phase (its column is `NAME_ns`) and no metric may have
RESERVED_PHASES = frozenset({"", UNATTRIBUTED, "time", "wall", "clock", "arrival", "gc"})
RESERVED_METRICS = frozenset({"attempt", "rank", "tick", "beats"})

# the columns of each kind with their SQL types; the array types hold the values of a map
COLUMNS = {
    "ticks": {
        "tick": "BIGINT",
        "time_ns": "BIGINT",
        "wall_ns": "BIGINT",
        "beats": "BIGINT",
        "clock_ns": "BIGINT",
        "arrival_ns": "BIGINT",
        "gc_ns": "BIGINT",
        "phases": "BIGINT[]",
        "metrics": "DOUBLE[]",
    },
    "events": {"tick": "BIGINT", "time_ns": "BIGINT", "event": "VARCHAR", "fields": "JSON"},
    "resources": {"tick": "BIGINT", "time_ns": "BIGINT", "values": "DOUBLE[]"},
}
MAPS = {
    kind: [name for name, sql_type in columns.items() if sql_type.endswith("[]")]
    for kind, columns in COLUMNS.items()
}
# the columns that every record of a kind has, in their order
FIXED = {
    kind: [name for name in columns if name not in MAPS[kind]] for kind, columns in COLUMNS.items()
}
OPTIONAL = ("arrival_ns", "gc_ns")  # these columns are only there if a line has them
# the columns in which every record has a value
REQUIRED = {
    "ticks": ("tick", "time_ns", "wall_ns"),
    "events": ("tick", "time_ns", "event"),
    "resources": ("tick", "time_ns"),
}


class TickRecord(msgspec.Struct, gc=False, omit_defaults=True):
    """A line of a tick, as the clock makes it.

    `time_ns` is the time of its end, in nanoseconds since 1970; all other `_ns` are durations:
    `wall_ns` of the tick, `clock_ns` of the clock's own work in it, `arrival_ns` until this rank
    entered the collective, `gc_ns` of Python's garbage collector. If the phases of a
    tick were not measured, `phases` is empty. A record with 0 `beats` is no tick: it holds values
    that were logged after this tick, before the next one.
    """

    tick: int
    time_ns: int
    wall_ns: int
    beats: int
    phases: dict[str, int]
    metrics: dict[str, float | str]
    clock_ns: int = 0
    arrival_ns: int | None = None
    gc_ns: int | None = None


# values and names that a column can have: reading a line checks them
_Integer = Annotated[int, msgspec.Meta(ge=SMALLEST_INTEGER, le=LARGEST_INTEGER)]
_Number = float | Literal["nan", "inf", "-inf"]
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class StoredTick(msgspec.Struct, gc=False, omit_defaults=True):
    """A line of a tick, as it is read: a `TickRecord` in which every value fits its column."""

    tick: _Integer
    time_ns: _Integer
    wall_ns: _Integer
    beats: _Integer
    phases: dict[_Name, _Integer]
    metrics: dict[_Name, _Number]
    clock_ns: _Integer = 0
    arrival_ns: _Integer | None = None
    gc_ns: _Integer | None = None


class EventRecord(msgspec.Struct):
    """A line of an event; `tick` is the tick in which it happened, `time_ns` is since 1970."""

    event: str
    tick: _Integer
    time_ns: _Integer
    fields: dict[str, Any]


class ResourceRecord(msgspec.Struct):
    """A line of a sample of the machine; the units are in the names of the values."""

    tick: _Integer
    time_ns: _Integer
    values: dict[_Name, float]


LINE_TYPES = {"ticks": StoredTick, "events": EventRecord, "resources": ResourceRecord}


def replace_non_finite(record: TickRecord) -> list[str]:
    """Replace NaN and infinities among the metrics by text, in place; return their names."""
    names = []
    for name, value in record.metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            record.metrics[name] = str(value)
            names.append(name)
    return names
