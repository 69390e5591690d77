"""Runs read together answer as runs that are read by themselves, and in few queries."""

import shutil
from pathlib import Path

import pytest

from metronorm.board.series import Chart, RunSeries, ahead, blocks, parts, read_ahead
from metronorm.board.series import recorded_events as events
from metronorm.store import engine
from metronorm.store.run_directory import tape_folder
from metronorm.store.sealing import seal_run

from ...store.stores import line, new_run, write_tape
from .test_run_series import record

NAMES = ["loss", "Rare", "wall_ns", "no such metric"]


def answer(series: RunSeries) -> bytes:
    return series.reduce(NAMES, Chart(width=30), ghosts=True).to_bytes()


def sealed(run: Path, last: int, name: str = "loss") -> Path:
    write_tape(
        new_run(run), [line(tick, {name: 1 / tick, "rare": tick}) for tick in range(1, last)]
    )
    seal_run(run)
    return run


@pytest.fixture
def runs(tmp_path: Path, shared: Path) -> dict[str, Path]:
    """Runs of all kinds, each in a folder of its own."""
    found = {name: tmp_path / name for name in ("long", "resumed", "other", "live", "damaged")}
    sealed(found["long"], 90)
    record(found["resumed"], 1, 30)
    record(found["resumed"], 21, 25, resume=True)
    sealed(found["other"], 20, name="accuracy")
    write_tape(new_run(found["live"]), [line(tick, {"loss": tick}) for tick in range(1, 9)])
    sealed(found["damaged"], 50)
    part = tape_folder(found["damaged"], "ticks", 0, 0) / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[40 : len(data) // 2] = bytes(len(data) // 2 - 40)
    part.write_bytes(data)
    return found


def test_the_answers_are_the_same(runs: dict[str, Path]) -> None:
    found = read_ahead(runs.values(), ["Loss", "rare"])
    assert [len(found[run].ticks) for run in runs.values()] == [1, 2, 1, 0, 0]
    for name, run in runs.items():
        series, alone = RunSeries(run, ahead=found[run]), RunSeries(run)
        assert answer(series) == answer(alone), name
        assert series.notices() == alone.notices()
        assert answer(series) == answer(alone), name  # also what is read again


def test_many_runs_take_few_queries(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [sealed(tmp_path / str(number), 20 + number) for number in range(12)]
    opened = 0

    def counted(**config: object) -> object:
        nonlocal opened
        opened += 1
        return engine.connect(**config)

    for module in (blocks, parts, events):
        monkeypatch.setattr(module, "connect", counted)
    found = read_ahead(runs, ["loss"])
    for run in runs:
        RunSeries(run, ahead=found[run]).reduce(["loss"])
    assert opened == 1  # (there are no events)


def test_a_run_that_was_replaced_is_read_itself(tmp_path: Path, shared: Path) -> None:
    run = sealed(tmp_path / "run", 20)
    found = read_ahead([run], ["loss"])[run]
    shutil.rmtree(run)
    sealed(run, 30)
    assert answer(RunSeries(run, ahead=found)) == answer(RunSeries(run))


def test_long_runs_and_folders_without_a_run_are_left_out(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sealed(tmp_path / "run", 20)
    assert [*read_ahead([tmp_path, run], ["loss"])] == [run]
    monkeypatch.setattr(ahead, "MOST_BYTES", 100)
    assert read_ahead([run], ["loss"]) == {}
