"""What a run's record holds: its kinds, the lines of each on the tape, and the columns of each.

| kind | a line on the tape | its columns |
| --- | --- | --- |
| `ticks` | `TickRecord` | its fields; `PHASE_ns` of each phase; each metric |
| `events` | `EventRecord` | its fields; `fields` is JSON |
| `resources` | `ResourceRecord` | its fields; each value |

`attempt` and `rank` come from the folder. JSON has no numbers for what is not finite: such a metric
travels as text, "nan", "inf" or "-inf".
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

KINDS = ("ticks", "events", "resources")

SMALLEST, LARGEST = -(2**63), 2**63 - 1  # of the integers that a column holds

UNATTRIBUTED = "unattributed"  # the phase of what no phase covers

# columns of the record's own: no phase may be called `NAME` of a `NAME_ns`, and no metric so
RESERVED_PHASES = frozenset({"", UNATTRIBUTED, "time", "wall", "clock", "arrival", "gc"})
RESERVED_METRICS = frozenset({"attempt", "rank", "tick", "beats"})

# the columns of a line, by their types in SQL; a map of many names is the array of their values
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
    kind: [name for name, form in columns.items() if form.endswith("[]")]
    for kind, columns in COLUMNS.items()
}
FIXED = {
    kind: [name for name in columns if name not in MAPS[kind]] for kind, columns in COLUMNS.items()
}
OPTIONAL = ("arrival_ns", "gc_ns")  # columns only where they are known


class TickRecord(msgspec.Struct, gc=False, omit_defaults=True):
    """A line of a tick, as the clock makes it.

    `clock_ns` is what the clock itself cost in the tick, `gc_ns` what Python's garbage collector
    did. Without `phases` they were not measured. Without `beats` it is no tick: what was logged
    between this one and the next.
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


# what a column can hold, and what it can be called: a line that is read is held to it
_Integer = Annotated[int, msgspec.Meta(ge=SMALLEST, le=LARGEST)]
_Number = float | Literal["nan", "inf", "-inf"]
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class StoredTick(msgspec.Struct, gc=False, omit_defaults=True):
    """A line of a tick, as it is read: a `TickRecord` whose every value has a column."""

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
    """A line of an event."""

    event: str
    tick: _Integer
    time_ns: _Integer
    fields: dict[str, Any]


class ResourceRecord(msgspec.Struct):
    """A line of a sample of the machine."""

    tick: _Integer
    time_ns: _Integer
    values: dict[_Name, float]


LINES = {"ticks": StoredTick, "events": EventRecord, "resources": ResourceRecord}


def spell_out(record: TickRecord) -> list[str]:
    """Make text of what JSON has no numbers for; the names of the metrics that are not finite."""
    found = []
    for name, value in record.metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            record.metrics[name] = str(value)
            found.append(name)
    return found
