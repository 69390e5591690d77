"""Helpers that write invented runs: their tapes look as if a clock had written them."""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from metronorm.store.run_directory import create_run, tape_folder
from metronorm.store.tape import LIVE

START_NS = 1_800_000_000_000_000_000
MS = 1_000_000
PHASES_MS = {"data": 1.0, "forward": 30.0, "backward": 55.0, "communicate": 4.0, "update": 8.0}
REST_MS = 2.0

Phases = dict[str, float]
Plant = Callable[[int, int, Phases], None]


def write_run(directory: Path) -> Path:
    """Make an empty run."""
    create_run(directory, name=None, config={})
    return directory


def write_lines(
    run: Path, kind: str, lines: Iterable[dict[str, Any]], *, attempt: int = 0, rank: int = 0
) -> None:
    folder = tape_folder(run, kind, attempt, rank)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LIVE, "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def write_ticks(
    run: Path, records: Iterable[dict[str, Any]], *, attempt: int = 0, rank: int = 0
) -> None:
    write_lines(run, "ticks", records, attempt=attempt, rank=rank)


def write_event(
    run: Path, name: str, *, tick: int = 0, attempt: int = 0, rank: int = 0, **fields: Any
) -> None:
    line = {"event": name, "tick": tick, "time_ns": START_NS + tick * 100 * MS, "fields": fields}
    write_lines(run, "events", [line], attempt=attempt, rank=rank)


def write_resources(
    run: Path,
    samples: Iterable[dict[str, float]],
    *,
    attempt: int = 0,
    rank: int = 0,
    ticks_per_second: float = 10.0,
) -> None:
    """Write one sample per second."""
    lines = [
        {
            "tick": int(second * ticks_per_second),
            "time_ns": START_NS + second * 1000 * MS,
            "values": values,
        }
        for second, values in enumerate(samples, 1)
    ]
    write_lines(run, "resources", lines, attempt=attempt, rank=rank)


def write_training(
    run: Path,
    seed: int,
    *,
    ticks: int = 400,
    first: int = 1,
    attempt: int = 0,
    ranks: int = 1,
    beats: int = 1,
    noise: float = 0.03,
    plant: Plant = lambda tick, rank, phases: None,
    metrics: Callable[[int, int], dict[str, Any]] | None = None,
    arrival: bool = True,
    clock_ns: int = 20_000,
    gc_ms: Callable[[int], float] | None = None,
) -> Path:
    """Write a data-parallel training: ticks of about 100 ms, ranks that wait for each other.

    Args:
        plant: changes the phases (ms) of a tick and a rank. If it makes a rank slower, the other
            ranks wait for that rank in `communicate`.
        metrics: gives the metrics of a tick and a rank; by default a noisy loss that falls, and a
            few others.
        gc_ms: gives the time of the garbage collector in a tick, as a part of the forward pass of
            rank 0.
    """
    if not (run / "run.json").exists():
        write_run(run)
    chance = random.Random(seed)
    learned = metrics or (lambda tick, rank: training_metrics(chance, tick))
    records: dict[int, list[dict[str, Any]]] = {rank: [] for rank in range(ranks)}
    time_ns = START_NS + first * 100 * MS
    for tick in range(first, first + ticks):
        everybody = []
        for rank in range(ranks):
            own = {name: ms * chance.lognormvariate(0, noise) for name, ms in PHASES_MS.items()}
            own["unattributed"] = REST_MS * chance.lognormvariate(0, noise)
            if tick == first:
                own["forward"] *= 20  # compiled
            plant(tick, rank, own)
            if gc_ms is not None and rank == 0:
                own["forward"] += gc_ms(tick)
            everybody.append(own)
        moments = [own["data"] + own["forward"] + own["backward"] for own in everybody]
        wall_ns = 0
        for rank, own in enumerate(everybody):
            own["communicate"] += max(moments) - moments[rank]
            phases = {name: round(ms * MS) for name, ms in own.items()}
            wall_ns = sum(phases.values())
            record = {
                "tick": tick,
                "time_ns": time_ns + wall_ns,
                "wall_ns": wall_ns,
                "beats": beats,
                "phases": phases,
                "metrics": learned(tick, rank),
                "clock_ns": clock_ns,
            }
            if arrival and ranks > 1:
                record["arrival_ns"] = round(moments[rank] * MS)
            if gc_ms is not None:
                record["gc_ns"] = 0 if rank else round(gc_ms(tick) * MS)
            records[rank].append(record)
        time_ns += wall_ns
    for rank, lines in records.items():
        write_ticks(run, lines, attempt=attempt, rank=rank)
        write_event(run, "start", tick=first - 1, attempt=attempt, rank=rank, process=1)
        write_event(run, "end", tick=first + ticks - 1, attempt=attempt, rank=rank)
    return run


def training_metrics(chance: random.Random, tick: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "loss": 2 + 8 * tick**-0.4 + chance.gauss(0, 0.05),
        "tokens": 4096,
        "learning_rate": 1e-3 / (1 + tick / 1000),
        "gradient_norm": chance.lognormvariate(0, 0.3),
    }
    if tick % 100 == 0:
        found["validation_loss"] = 2 + 8 * tick**-0.4 + chance.gauss(0, 0.01)
    return found


def steady_memory(chance: random.Random, seconds: int) -> list[dict[str, float]]:
    """Samples of memory that grows in the first tenth, then rises and falls with garbage."""
    full = 2 * 2**30
    return [
        {
            "memory_bytes": full * min(1, 0.5 + 5 * second / seconds)
            + (second % 37) * 2**20
            + chance.gauss(0, 8 * 2**20),
            "shared_memory_bytes": 2**28 + chance.gauss(0, 2**20),
            "children_memory_bytes": 2**30 + chance.gauss(0, 2**24),
            "machine_memory_available_bytes": 16 * 2**30 + chance.gauss(0, 2**28),
            "gpu0_utilization": min(1.0, chance.gauss(0.93, 0.04)),
            "gpu0_memory_bytes": 30 * 2**30 + chance.choice((0, 2**28)),
        }
        for second in range(seconds)
    ]
