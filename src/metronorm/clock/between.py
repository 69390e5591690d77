"""Values that are logged between ticks, and in a tick that never ended.

A tick is on the tape when it ends, and the tape is append-only. So values that are logged later are
recorded as an event `between`, which has the number of the tick before; readers put them into the
row of that tick:

| logged | recorded in |
| --- | --- |
| before the first tick | the first tick; if there is none, an event `between` |
| in a tick | that tick; if it never ends, an event `unfinished` |
| after a tick, before the next | an event `between`, at once |

Phases between ticks are recorded in the same way: with the next values, when the next loop begins,
or when the clock closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.clock.device_ledger import DevicePhases
from metronorm.clock.pending_records import PendingRecord
from metronorm.store.schema import UNATTRIBUTED, TickRecord

if TYPE_CHECKING:
    from metronorm.clock.device import PendingValue


def record_between(
    tick: int,
    time_ns: int,
    phases: dict[str, int] | DevicePhases,
    metrics: dict[str, Any],
    fetching: dict[str, PendingValue],
) -> PendingRecord | None:
    """A record without beats of what was logged after a tick; None if there is nothing.

    Args:
        tick: the number of the tick before.
        time_ns: nanoseconds since 1970.
        phases: time in phases since that tick ended, or since the last call.
        metrics: values by name; None where `fetching` has the name.
        fetching: values on their way from a device, by name.
    """
    on_host = (
        {name: ns for name, ns in phases.items() if ns and name != UNATTRIBUTED}
        if isinstance(phases, dict)
        else {}
    )
    on_device = phases if isinstance(phases, DevicePhases) and phases else None
    if not (metrics or on_host or on_device):
        return None
    return PendingRecord(TickRecord(tick, time_ns, 0, 0, on_host, metrics), on_device, fetching)


def event_fields(record: TickRecord) -> dict[str, Any]:
    """Metrics and phases of a record, as the fields of an event; empty parts are left out."""
    phases = {name: ns for name, ns in record.phases.items() if ns and name != UNATTRIBUTED}
    fields = {"metrics": record.metrics, "phases": phases}
    return {key: values for key, values in fields.items() if values}
