"""Runs whose tick times are noisy, each neighbour like the one before."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from unittest import mock

from metronorm.clock import Clock
from metronorm.runs import Run, open_run

from .virtual import VirtualTime

TICK_NS = 50_000_000


def noise(seed: int, count: int, memory: float = 0.6) -> list[float]:
    """An autoregressive series of variance 1."""
    random = Random(seed)
    value, values = random.gauss(0, 1), []
    for _ in range(count):
        values.append(value)
        value = memory * value + math.sqrt(1 - memory**2) * random.gauss(0, 1)
    return values


def walls(seed: int, count: int = 300, *, slower: float = 0.0, spread: float = 0.03) -> list[int]:
    """Tick times in ns with a median of `TICK_NS * (1 + slower)`."""
    scale = TICK_NS * (1 + slower)
    return [round(scale * math.exp(spread * value)) for value in noise(seed, count)]


def record(
    run: Path,
    times: Sequence[int],
    *,
    metrics: Callable[[int], dict[str, float]] = lambda tick: {},
    phases: Callable[[int, int], dict[str, int]] = lambda tick, time: {},
    resume: bool = False,
    first: int = 1,
) -> Run:
    """A run with these tick times, and values of `metrics(tick)` and `phases(tick, its time)`."""
    moment = VirtualTime()
    with Clock(run, progress=False, now=moment, resume=resume) as clock:
        for time in clock.ticks(times, initial=first - 1):
            rest = time
            for name, spent in phases(clock.tick, time).items():
                with clock.phase(name):
                    moment.pass_(spent)
                rest -= spent
            moment.pass_(rest)
            clock.log(**metrics(clock.tick))
    return open_run(run)


def record_ranks(run: Path, ranks: Sequence[Sequence[int]], tokens: int) -> Run:
    """A run of several ranks, each with its tick times and as many tokens in every tick."""
    for rank, times in enumerate(ranks):
        place = {"RANK": str(rank), "WORLD_SIZE": str(len(ranks))}
        with mock.patch.dict(os.environ, place):
            record(run, times, metrics=lambda tick: {"tokens": tokens, "loss": 1.0})
    return open_run(run)
