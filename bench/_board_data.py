"""Runs for the benchmark of the board: long, many, wide."""

from __future__ import annotations

import json
import shutil
import uuid
from typing import TYPE_CHECKING

import duckdb

from metronorm.clock import Clock
from metronorm.store.sealing import seal_run

if TYPE_CHECKING:
    from pathlib import Path

SPIKE, NAN = 777_777, 333_333  # ticks of `loss` in a long run of a million
METRICS = ("loss", *(f"metric_{number:02}" for number in range(1, 20)))


def long_run(directory: Path, ticks: int = 1_000_000) -> None:
    """A sealed run of 20 metrics, with one spike of 100 and one NaN in `loss`."""
    _begin(directory, ticks=1)
    (part,) = directory.glob("ticks/attempt=0/rank=0/part-*.parquet")
    noise = "(random() + random() - 1)"
    loss = f"1.5 + 3 * exp(-tick / {ticks / 6}) + 0.1 * {noise}"
    spike, nan = odd_ticks(ticks)
    loss = f"case tick when {spike} then 100 when {nan} then 'nan'::double else {loss} end"
    others = ", ".join(
        f'sin(tick / 5e4 + {i}) + 0.2 * {noise} as "{METRICS[i]}"' for i in range(1, 20)
    )
    duckdb.sql(
        f"""copy (
            select *, wall_ns - 83000000 as unattributed_ns from (
                select tick, 1700000000000000000 + tick * 100000000 as time_ns,
                    (90e6 + 2e7 * random())::bigint as wall_ns, 1::bigint as beats,
                    2000::bigint as clock_ns, 3000000::bigint as data_ns,
                    30000000::bigint as forward_ns, 50000000::bigint as backward_ns,
                    {loss} as loss, {others}
                from (select (range + 1)::bigint as tick from range({ticks}))
            ) order by tick
        ) to '{part}' (format parquet, compression zstd)"""
    )


def odd_ticks(ticks: int) -> tuple[int, int]:
    """The ticks of the spike and of the NaN in a long run."""
    return SPIKE * ticks // 1_000_000, NAN * ticks // 1_000_000


def many_runs(folder: Path, runs: int, ticks: int, *, alike: bool = True) -> None:
    """Runs that differ in name, id and the option `lr`; in their loss unless they are alike."""
    first = folder / "run-0000"
    _begin(first, ticks=ticks)
    known = json.loads((first / "run.json").read_text())
    for number in range(1, runs):
        directory = folder / f"run-{number:04}"
        shutil.copytree(first, directory)
        changes = {
            "id": uuid.uuid4().hex,
            "name": directory.name,
            "config": {"lr": 1 / (1 + number)},
        }
        (directory / "run.json").write_text(json.dumps(known | changes))
        if not alike:
            _change_loss(directory, 1 + number / runs)


def wide_run(directory: Path, metrics: int = 5_000) -> None:
    """A run with thousands of metrics."""
    with Clock(directory, progress=False) as clock:
        for tick in clock.ticks(range(1, 21)):
            clock.log(loss=1 / tick, **{f"layer.{number}.norm": 1.0 for number in range(metrics)})
    seal_run(directory)


def _change_loss(directory: Path, factor: float) -> None:
    (part,) = directory.glob("ticks/attempt=0/rank=0/part-*.parquet")
    other = part.with_suffix(".new")
    loss = f"{factor} * loss + 0.2 * random() as loss"
    query = f"select * replace ({loss}) from '{part}' order by tick"
    duckdb.sql(f"copy ({query}) to '{other}' (format parquet, compression zstd)")
    other.replace(part)


def _begin(directory: Path, ticks: int) -> None:
    with Clock(directory, config={"lr": 1.0}, progress=False) as clock:
        for tick in clock.ticks(range(1, ticks + 1)):
            with clock.phase("forward"):
                pass
            clock.log(loss=4 / tick**0.5, tokens=100)
    seal_run(directory)
