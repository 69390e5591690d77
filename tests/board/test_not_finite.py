"""`has:nan` finds a value wherever in the history of a run it is."""

from __future__ import annotations

import gc
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from metronorm.board.listing import Listing
from metronorm.board.not_finite import Bad, NotFinite
from metronorm.board.query import parse
from metronorm.board.searching import search
from metronorm.board.series import RunSeries
from metronorm.board.values import Values
from metronorm.clock import Clock
from metronorm.store.sealing import seal_run

from ..store.stores import line, new_run, write_tape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAN, INF = Bad(True, False), Bad(False, True)


@pytest.fixture
def listing(tmp_path: Path) -> Iterator[Listing]:
    found = Listing([tmp_path])
    yield found
    found.close()


def found(listing: Listing, looks: NotFinite) -> dict[str, Bad]:
    listing.look()
    names = {entry.id: entry.directory.name for entry in listing.entries()}
    bad = looks.find(listing.entries(), seconds=60)
    return {names[run]: each for run, each in bad.items()}


def test_values_of_all_attempts_ranks_and_columns(tmp_path: Path, listing: Listing) -> None:
    kinds = {"nan": NAN, "inf": INF, "-inf": INF, "none": Bad(False, False)}
    for kind in kinds:
        for sealed in (True, False):
            run = new_run(tmp_path / f"{kind}, {'sealed' if sealed else 'lines'}")
            odd: Any = 1.0 if kind == "none" else kind
            for attempt, rank in ((0, 0), (0, 1), (1, 0), (1, 1)):
                # tick 5 of attempt 0 is done again, and only some ticks have the second metric
                first = 3 * attempt + 1
                ticks = [
                    line(tick, {"loss": 0.5} | ({} if tick % 5 else {"rare": 1.0}))
                    for tick in range(first, first + 8)
                ]
                if (attempt, rank) == (0, 1):
                    ticks[4] = line(5, {"loss": 0.5, "rare": odd})
                write_tape(run, ticks, attempt=attempt, rank=rank)
            if sealed:
                seal_run(run)
    looks = NotFinite()
    expected = {f"{kind}, {how}": bad for kind, bad in kinds.items() for how in ("sealed", "lines")}
    assert found(listing, looks) == expected
    assert found(listing, looks) == expected  # from what it has kept


def test_a_run_that_is_written_and_values_between_ticks(tmp_path: Path, listing: Listing) -> None:
    looks = NotFinite()
    with Clock(tmp_path / "run", progress=False) as clock:
        for tick in clock.ticks(range(1, 7)):
            clock.log(loss=math.nan if tick == 5 else 1.0)
            clock.flush()
            assert found(listing, looks)["run"].nan == (tick > 5), tick
        clock.log(late=-math.inf)
    assert found(listing, looks)["run"] == Bad(True, True)
    seal_run(tmp_path / "run")
    assert found(listing, looks)["run"] == Bad(True, True)


def test_damaged_parts_hide_nothing_of_others(tmp_path: Path, listing: Listing) -> None:
    for name in ("good", "damaged"):
        write_tape(new_run(tmp_path / name), [line(1, {"loss": "nan"})])
        seal_run(tmp_path / name)
    (part,) = (tmp_path / "damaged").rglob("*.parquet")
    data = bytearray(part.read_bytes())
    data[4:-8] = bytes(len(data) - 12)
    part.write_bytes(data)
    assert found(listing, NotFinite()) == {"good": NAN, "damaged": Bad(False, False)}


def test_the_search_uses_it(tmp_path: Path, listing: Listing) -> None:
    write_tape(new_run(tmp_path / "a"), [line(1, {"loss": "nan"})], [line(2)])
    write_tape(new_run(tmp_path / "b"), [line(1)])
    listing.look()
    listing.wait_until_known(30)
    values = Values(lambda entry: pytest.fail(f"{entry} is not being written"))
    names = {entry.id: entry.name for entry in listing.entries()}
    for query, expected in (("has:nan", ["a"]), ("-has:nan", ["b"]), ("has:inf", [])):
        ids, left = search(parse(query), listing.entries(), values, NotFinite(), 0)
        assert [names[run] for run in ids] == expected
        assert left == 0


def test_runs_that_there_was_no_time_for_are_left_out(tmp_path: Path, listing: Listing) -> None:
    for name, sealed in (("lines", False), ("sealed", True)):
        write_tape(new_run(tmp_path / name), [line(1, {"loss": "nan"})])
        if sealed:
            seal_run(tmp_path / name)
    looks = NotFinite()
    listing.look()
    assert looks.find(listing.entries(), seconds=-1) == {}
    assert found(listing, looks) == {"lines": NAN, "sealed": NAN}
    assert len(looks.find(listing.entries(), seconds=-1)) == 2


def test_nothing_is_kept_of_runs_that_were_removed(tmp_path: Path, listing: Listing) -> None:
    for name, sealed in (("lines", False), ("sealed", True), ("stays", True)):
        write_tape(new_run(tmp_path / name), [line(1, {"loss": "nan"})])
        if sealed:
            seal_run(tmp_path / name)
    looks = NotFinite()
    values = Values(lambda entry: RunSeries(entry.directory))
    assert len(found(listing, looks)) == 3
    listing.wait_until_known(30)
    values.read(listing.entries(), ["loss"], seconds=60)
    values.names(listing.entries(), seconds=60)
    for name in ("lines", "sealed"):
        shutil.rmtree(tmp_path / name)
    assert found(listing, looks) == {"stays": NAN}
    assert (len(looks._parts), len(looks._lines)) == (1, 0)
    gc.collect()
    assert (len(values._kept), len(values._names)) == (1, 1)
