"""What is logged outside of the ticks that count: after one, and in one that never ended.

A tick is on the tape when it ends, and the tape is append-only. So what is logged later is an event
`between` that says the tick before it, and readers put it into that tick's row:

| logged | stands in |
| --- | --- |
| before the first tick | the first tick; without one, an event `between` |
| in a tick | that tick; if it never ends, an event `unfinished` |
| after a tick, before the next | an event `between`, at once |

Phases of the time that is no tick's are treated alike; they are written with the next values, when
the next loop begins, or when the clock closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.clock.device_ledger import DevicePhases
from metronorm.clock.pending_records import Late
from metronorm.store.schema import UNATTRIBUTED, TickRecord

if TYPE_CHECKING:
    from metronorm.clock.device import Pending


def logged_after(
    tick: int,
    time_ns: int,
    phases: dict[str, int] | DevicePhases,
    metrics: dict[str, Any],
    fetching: dict[str, Pending],
) -> Late | None:
    """A record without beats of what was logged after a tick; None if that was nothing.

    Args:
        tick: the one before.
        time_ns: nanoseconds since 1970.
        phases: since it ended, or since this was called last.
        metrics: None for those that `fetching` has on their way.
        fetching: by name.
    """
    on_host = (
        {name: ns for name, ns in phases.items() if ns and name != UNATTRIBUTED}
        if isinstance(phases, dict)
        else {}
    )
    on_device = phases if isinstance(phases, DevicePhases) and phases else None
    if not (metrics or on_host or on_device):
        return None
    return Late(TickRecord(tick, time_ns, 0, 0, on_host, metrics), on_device, fetching)


def event_fields(record: TickRecord) -> dict[str, Any]:
    """Metrics and phases of a record, as the fields of an event."""
    phases = {name: ns for name, ns in record.phases.items() if ns and name != UNATTRIBUTED}
    told = {"metrics": record.metrics, "phases": phases}
    return {key: values for key, values in told.items() if values}
