"""Summaries of many runs are those of each run by itself, whatever has become of it."""

import math
import shutil
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.errors import RunError
from metronorm.runs import open_run
from metronorm.runs.summaries import summaries
from metronorm.runs.summary import summarize
from metronorm.runs.table import Table
from metronorm.store.sealing import seal_run

from ..store.tapes import write_training


def sweep(folder: Path, number: int) -> Path:
    config = {"rate": number / 8, "best": "score", "best_mode": ("min", "max")[number % 2]}
    run = folder / f"sweep-{number}"
    with Clock(run, config=config, progress=False) as clock:
        clock.event("machine", precision="bf16")
        for tick in clock.ticks(range(5)):
            loss = math.nan if tick == number else 1 / (tick + 1 + number)
            clock.log(loss=loss, tokens=0.1 * tick, validation_score=(tick * 7 + number) % 5)
            with clock.phase("forward"):
                pass
            if number == 3:
                clock.sample("text", "once upon a time")
    return run


def sealed(run: Path) -> Path:
    seal_run(run)
    return run


@pytest.fixture
def together(tmp_path: Path) -> list[Path]:
    """Runs that can be read together: a sweep, and others, each in its own way."""
    with Clock(tmp_path / "empty phases", progress=False) as clock:
        for _ in clock.ticks(range(3)):
            clock.log(**{"Loss": 1.0, 'odd "loss"': math.inf})
    two_parts = sealed(write_training(tmp_path / "two parts", 1, ticks=20))
    sealed(write_training(two_parts, 2, ticks=20, first=21))
    late = sealed(
        write_training(
            tmp_path / "late",
            3,
            ticks=40,
            ranks=3,
            plant=lambda tick, rank, phases: phases.update(forward=30 + 50.0 * (rank == 2)),
        )
    )
    return [*(sweep(tmp_path, number) for number in range(5)), tmp_path / "empty phases", two_parts,
            late]  # fmt: skip


@pytest.fixture
def alone(tmp_path: Path) -> list[Path]:
    """Runs that must be read by themselves, and one that cannot be read."""
    with Clock(tmp_path / "between", progress=False) as clock:
        for _ in clock.ticks(range(3)):
            clock.log(loss=1.0)
        clock.log(test_loss=0.5)
    killed = write_training(tmp_path / "killed", 4, ticks=20)
    resumed = sealed(write_training(tmp_path / "resumed", 5, ticks=20))
    sealed(write_training(resumed, 6, ticks=20, first=11, attempt=1))
    torn = sweep(tmp_path, 6)
    (torn / "ticks/attempt=0/rank=0/_live.jsonl").write_bytes(b'{"tick": 6')
    no_part = sweep(tmp_path, 7)
    (no_part / "ticks/attempt=0/rank=0/part-00000.parquet").write_bytes(b"PAR1 no part PAR1")
    linked = tmp_path / "linked"
    shutil.copytree(sweep(tmp_path, 8), linked)
    shutil.rmtree(linked / "ticks")
    (linked / "ticks").symlink_to(tmp_path / "sweep-8" / "ticks")
    begun = tmp_path / "begun"
    with Clock(begun, progress=False):
        pass
    bad = tmp_path / "bad"
    shutil.copytree(begun, bad)
    (bad / "run.json").write_bytes(b"{")
    return [tmp_path / "between", killed, resumed, torn, no_part, linked, begun, bad]


def test_runs_read_together_are_those_read_one_by_one(
    together: list[Path], alone: list[Path], tmp_path: Path
) -> None:
    paths = [path for pair in zip(together, alone, strict=True) for path in pair]
    found = summaries([*paths, tmp_path / "no run"])
    assert set(found) == set(together)
    for path, summary in found.items():
        assert repr(summary) == repr(summarize(open_run(path), curves=False)), path
        assert summary.ticks > 0
    assert found[tmp_path / "late"].straggler is not None
    assert found[tmp_path / "two parts"].ticks == 40
    assert found[tmp_path / "sweep-3"].samples == 5
    assert found[tmp_path / "sweep-0"].measures["validation_score"].best == 0.0
    assert found[tmp_path / "sweep-1"].measures["validation_score"].best == 4.0
    assert math.isnan(found[tmp_path / "sweep-4"].measures["loss"].last)


def test_a_part_that_is_damaged_in_the_middle_leaves_the_others(together: list[Path]) -> None:
    part = together[2] / "ticks/attempt=0/rank=0/part-00000.parquet"
    content = bytearray(part.read_bytes())
    for at in range(4, len(content) // 3):
        content[at] ^= 0x5A
    part.write_bytes(content)
    assert set(summaries(together)) == set(together) - {together[2]}


def test_two_paths_to_one_run_count_its_ticks_once(tmp_path: Path) -> None:
    run = sweep(tmp_path, 0)
    (tmp_path / "link").symlink_to(run)
    found = summaries([run, tmp_path / "link"])
    assert [(path, one.ticks) for path, one in found.items()] == [(run, 5)]


def test_more_runs_take_no_more_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = []
    fetch = Table.fetch
    monkeypatch.setattr(
        Table, "fetch", lambda self, query: (queries.append(query), fetch(self, query))[1]
    )
    paths = [sweep(tmp_path, number) for number in range(1, 14, 2)]  # of the same `best_mode`
    assert len(summaries(paths[:2])) == 2
    few = len(queries)
    assert len(summaries(paths)) == len(paths)
    assert len(queries) == 2 * few


def test_what_cannot_be_read_at_all_is_said_by_summarize(alone: list[Path]) -> None:
    assert summaries(alone) == {}
    with pytest.raises(RunError):
        summarize(open_run(alone[-1]))
