"""The values of a clock for monitoring systems, by name and unit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from metronorm.clock import read_run_info
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.clock import Clock


class Measure(NamedTuple):
    """Something that a clock measures.

    Attributes:
        name: the name without prefix and unit.
        unit: the unit in UCUM's notation: "s", "By" (bytes), "1" (a ratio) and so on.
        counted: whether the value only grows while an attempt lasts.
        meaning: the description, in English.
    """

    name: str
    unit: str
    counted: bool
    meaning: str


class Value(NamedTuple):
    """The present value of a measure; `labels` distinguish several values of one measure."""

    measure: Measure
    labels: dict[str, str]
    value: float


TICKS = Measure("ticks", "{tick}", True, "Newest finished tick, counted from the run's beginning")
TICK = Measure("tick", "s", False, "Duration of the newest tick")
TICK_END = Measure(
    "last_tick_timestamp", "s", False, "Time at which the newest tick ended, since 1970"
)
PHASE = Measure("phase", "s", True, "Time in each phase of the ticks since monitoring began")
METRIC = Measure("metric", "", False, "Value that the newest tick has logged")
DROPPED = Measure("dropped_records", "{record}", True, "Lost records")

# by the name of the column in a run's resources
RESOURCES = {
    "memory_bytes": Measure("memory", "By", False, "Resident memory"),
    "shared_memory_bytes": Measure(
        "shared_memory", "By", False, "Resident memory of mapped files and shared memory"
    ),
    "peak_memory_bytes": Measure("peak_memory", "By", False, "Most resident memory so far"),
    "processor_ns": Measure("processor", "s", True, "CPU time"),
    "processor_energy_joules": Measure("processor_energy", "J", True, "Energy of the CPUs"),
    "disk_read_bytes": Measure("disk_read", "By", True, "Read from disk"),
    "disk_written_bytes": Measure("disk_written", "By", True, "Written to disk"),
    "children_memory_bytes": Measure("children_memory", "By", False, "Memory of child processes"),
    # not counted: it falls when a child ends
    "children_processor_ns": Measure(
        "children_processor", "s", False, "CPU time of living child processes"
    ),
    "swap_bytes": Measure("machine_swap", "By", False, "Swap of the machine in use"),
    "machine_memory_available_bytes": Measure(
        "machine_memory_available", "By", False, "Available memory of the machine"
    ),
    "machine_processor_share": Measure("machine_processor", "1", False, "Busy share of all CPUs"),
    "network_received_bytes": Measure(
        "machine_network_received", "By", True, "Received by the machine"
    ),
    "network_sent_bytes": Measure("machine_network_sent", "By", True, "Sent by the machine"),
    "gpu_utilization": Measure("gpu_utilization", "1", False, "Busy share of a GPU's time"),
    "gpu_memory_bytes": Measure("gpu_memory", "By", False, "Memory of a GPU in use"),
    "gpu_power_watts": Measure("gpu_power", "W", False, "Power of a GPU"),
    "gpu_temperature_celsius": Measure("gpu_temperature", "Cel", False, "Temperature of a GPU"),
    "gpu_energy_joules": Measure("gpu_energy", "J", True, "Energy of a GPU"),
}
MEASURES = (TICKS, TICK, TICK_END, PHASE, METRIC, DROPPED, *RESOURCES.values())
IDENTITY = ("run", "attempt", "rank")

_GPU = re.compile(r"gpu(\d+)_")


def observe(clock: Clock) -> dict[str, str]:
    """Make the clock add up its phases; return the labels of its values: run, attempt, rank.

    Raises:
        ConfigError: the clock is not entered.
    """
    if not hasattr(clock, "attempt"):
        raise ConfigError(
            "a clock must be entered before it is observed", fix="with Clock(...) as clock:"
        )
    _ = clock.totals  # reading this once makes the clock keep totals
    run = read_run_info(clock.directory).name
    return dict(zip(IDENTITY, (run, str(clock.attempt), str(clock.rank)), strict=True))


def values(clock: Clock) -> Iterator[Value]:
    """Yield all present values. Call it on any thread; it costs the training thread nothing."""
    latest = clock.latest
    if latest is not None:
        yield Value(TICKS, {}, latest.tick)
        yield Value(TICK, {}, latest.wall_ns / 1e9)
        yield Value(TICK_END, {}, latest.time_ns / 1e9)
        for name, ns in clock.totals.items():
            yield Value(PHASE, {"phase": name}, ns / 1e9)
        for name, number in latest.metrics.items():
            yield Value(METRIC, {"name": name}, float(number))
    yield Value(DROPPED, {}, clock.dropped)
    for name, amount in clock.latest_resources.items():
        gpu = _GPU.match(name)
        measure = RESOURCES.get(_GPU.sub("gpu_", name))
        if measure is not None:
            scale = 1e9 if name.endswith("_ns") else 1
            yield Value(measure, {"gpu": gpu[1]} if gpu else {}, amount / scale)
