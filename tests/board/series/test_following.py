"""A run in whatever order it is written, finished, sealed, resumed and amended."""

import random
from pathlib import Path

import pytest

from metronorm.board.series import RunSeries
from metronorm.runs import open_run
from metronorm.store.run_directory import tape_folder
from metronorm.store.sealing import seal_parts
from metronorm.store.tape import Tape, encode

from ...store.stores import line, new_run
from .test_run_series import drawn

STEPS = 20


class Written:
    """A run that is written step by step, as clocks would do it."""

    def __init__(self, run: Path, chance: random.Random) -> None:
        self.run, self.chance = new_run(run), chance
        self.attempt, self.tick, self.time = -1, 0, 10**12
        self.tapes: dict[str, Tape] = {}
        self.resume()

    def step(self) -> None:
        actions = [self.ticks] * 6 + [self.rotate] * 2 + [self.seal] * 2
        self.chance.choice([*actions, self.between, self.between, self.resume])()

    def put(self, kind: str, record: bytes) -> None:
        assert self.tapes[kind].append(record) == len(record)

    def ticks(self) -> None:
        for _ in range(self.chance.randint(1, 5)):
            self.tick += 1
            self.time += 1000
            metrics: dict[str, float | str] = {"loss": self.chance.random()}
            if self.chance.random() < 0.3:
                metrics["Rare" if self.chance.random() < 0.5 else "rare"] = float(self.tick)
            phases = {"forward": 5, "unattributed": 2} if self.chance.random() < 0.8 else {}
            self.put("ticks", line(self.tick, metrics, time_ns=self.time, wall_ns=7, phases=phases))

    def between(self) -> None:
        """Something is logged after the newest tick."""
        self.time += 10
        fields = {"phases": {"evaluate": 3}, "metrics": {"late": self.chance.random(), "loss": 9.0}}
        event = {"event": "between", "tick": self.tick, "time_ns": self.time, "fields": fields}
        self.put("events", encode(event))

    def resume(self) -> None:
        """A new attempt goes on from some tick, or is a branch."""
        self.attempt += 1
        first = self.chance.randint(0, self.tick)
        for kind in ("ticks", "events"):
            if kind in self.tapes:
                self.tapes[kind].close()
            folder = tape_folder(self.run, kind, self.attempt, 0)
            folder.mkdir(parents=True)
            self.tapes[kind] = Tape(folder)
        self.time += 10
        if self.attempt:
            self.tick = first
            checkpoint = {"checkpoint": f"checkpoints/tick-{first:08}"}
            name = self.chance.choice(["resume", "branch"])
            event = {"event": name, "tick": first, "time_ns": self.time, "fields": checkpoint}
            self.put("events", encode(event))

    def rotate(self) -> None:
        for tape in self.tapes.values():
            if tape.size:
                tape.rotate()

    def seal(self) -> None:
        for kind in ("ticks", "events"):
            for attempt in range(self.attempt + 1):
                seal_parts(tape_folder(self.run, kind, attempt, 0), kind)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_on_is_what_is_there(tmp_path: Path, shared: Path, seed: int) -> None:
    chance = random.Random(seed)
    written = Written(tmp_path / "run", chance)
    series = RunSeries(written.run)
    for step in range(STEPS):
        written.step()
        if chance.random() < 0.4:
            continue  # nobody looks
        series.refresh()
        ticks = open_run(written.run).ticks()
        rows = ticks.rows()
        names = ["wall_ns", "time_ns", *ticks.metrics, *(f"{name}_ns" for name in ticks.phases)]
        for name in names:
            found = [(row["tick"], row[name]) for row in rows if row[name] is not None]
            assert list(zip(*drawn(series, name), strict=True)) == found, (step, name)
    series.refresh()
    anew = RunSeries(written.run)
    for axis in ("tick", "time", "training"):  # the same as if it were read only now
        both = (own.reduce(names, x=axis, ghosts=True) for own in (anew, series))  # type: ignore[arg-type]
        for own, other in zip(*(found.columns for found in both), strict=True):
            assert own.values.tobytes() == other.values.tobytes(), (axis, own.kind)
