"""What a run used of the machine, for a comparison: memory and CPU time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

_BUSY = {"time_ns", "machine_processor_share", "processor_ns", "children_processor_ns"}


def read_usage(resources: Table, skip: int) -> dict[str, float]:
    """The peaks and the CPU time of a run, if it recorded them.

    `peak_memory_bytes` is of the largest process, and `gpu_memory_bytes` of the fullest GPU.
    `tick_processor_ns` is the CPU time per tick of all ranks and their children, after the first
    `skip` ticks of every attempt.
    """
    columns = resources.columns
    gpus = [name for name in columns if re.fullmatch(r"gpu\d+_memory_bytes", name)]
    wanted = {
        "peak_memory_bytes": _largest([name for name in ("peak_memory_bytes",) if name in columns]),
        "gpu_memory_bytes": _largest(gpus),
        "tick_processor_ns": _cpu_time(columns, skip),
    }
    queries = [f"({query})::DOUBLE" for query in wanted.values()]
    (row,) = resources.fetch(f"select {', '.join(queries)}")
    return {name: value for name, value in zip(wanted, row, strict=True) if value is not None}


def others_share(run: Run) -> float | None:
    """The share of the machine's CPUs that other programs used during the run, from 0 to 1.

    It is None if it was not recorded, and the mean of all machines if there were several.
    """
    resources, cores = run.resources(), run.info.host.get("cores")
    columns = resources.columns
    if not cores or not {"machine_processor_share", "processor_ns"}.issubset(columns):
        return None
    own = " + ".join(
        f"coalesce(max({name}) - min({name}), 0)"
        for name in ("processor_ns", "children_processor_ns")
        if name in columns
    )
    ((busy, used),) = resources.only("attempt", "rank", *_BUSY.intersection(columns)).fetch(
        f"""with ranks as (
                select attempt, avg(machine_processor_share) as busy,
                       ({own}) / nullif(max(time_ns) - min(time_ns), 0) as used
                from resources where processor_ns is not null group by attempt, rank),
            attempts as (select avg(busy) as busy, sum(used) as used from ranks group by attempt)
            select avg(busy), avg(used) from attempts"""
    )
    if busy is None or used is None:
        return None
    ((hosts,),) = run.events().fetch(
        "select count(distinct fields->>'host') from events where event = 'start'"
    )
    return max(float(busy - used / cores / max(hosts, 1)), 0.0)


def _largest(columns: list[str]) -> str:
    if not columns:
        return "null"
    largest = ", ".join(f"max({identifier(name)})" for name in columns)
    return f"select greatest({largest}) from resources"


def _cpu_time(columns: list[str], skip: int) -> str:
    """SQL for the CPU time per tick: the steps between samples, because a child may have ended."""
    spent = " + ".join(
        f"coalesce(greatest({name} - lag({name}) over samples, 0), 0)"
        for name in ("processor_ns", "children_processor_ns")
        if name in columns
    )
    if "processor_ns" not in columns:
        return "null"
    return f"""
        with counted as (
                select * from resources where processor_ns is not null
                qualify tick::HUGEINT - min(tick) over (partition by attempt, rank) >= {skip}),
             steps as (
                select rank, tick::HUGEINT - lag(tick) over samples as ticks, {spent} as spent
                from counted window samples as (partition by attempt, rank order by time_ns, tick)),
             ranks as (select sum(spent) / sum(ticks) as each from steps group by rank
                       having sum(ticks) > 0)
        select sum(each) from ranks"""
