"""What a board keeps of a run, and when it reads again."""

from pathlib import Path

import pytest

from metronorm.board.series import RunSeries
from metronorm.board.state import Board
from metronorm.clock import Clock

from .boards import record


def rows(series: RunSeries) -> int:
    found: int = series.reduce(["loss"]).meta["rows"]
    return found


def test_a_run_that_is_over_is_read_once_until_it_goes_on(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "run", [1.0, 0.5])
    board, reads = Board([tmp_path]), 0
    refresh = RunSeries.refresh

    def counted(series: RunSeries) -> str:
        nonlocal reads
        reads += 1
        return refresh(series)

    monkeypatch.setattr(RunSeries, "refresh", counted)
    board.listing.look()
    board.listing.wait_until_known(60)
    (entry,) = board.listing.entries()
    assert entry.state == "finished"
    assert [rows(board.series(entry)) for _ in range(3)] == [2, 2, 2]
    assert reads == 1
    with Clock(tmp_path / "run", resume=True, progress=False) as clock:
        for _ in clock.ticks(range(2), initial=2):
            clock.log(loss=0.25)
        # (nobody has looked yet that it goes on)
        assert rows(board.series(entry)) == 4
    board.close()
