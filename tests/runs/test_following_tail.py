import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.runs.following.tail import Tail
from metronorm.store.ring import Ring, ring_path
from metronorm.store.run_directory import tape_folder
from metronorm.store.schema import TickRecord
from metronorm.store.sealing import seal_parts
from metronorm.store.tape import LIVE, Tape, encode

IDENTITY = "tail-of-a-test"


def line(tick: int) -> bytes:
    return encode(TickRecord(tick, 10 * tick, 10, 1, {}, {"loss": 0.5}))


def seen(tail: Tail) -> list[int] | None:
    records = tail.read()
    return None if records is None else [record.tick for record in records]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tape_folder(tmp_path, "ticks", 0, 0)
    made.mkdir(parents=True)
    return made


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["write", "write", "rotate", "seal", "look", "look"])))
def test_each_record_once_unless_lost(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    folder = tape_folder(tmp_path_factory.mktemp("tail"), "ticks", 0, 0)
    folder.mkdir(parents=True)
    tape, tail = Tape(folder), Tail(folder, "ticks", IDENTITY)
    tick, new, rotated, sealed = 0, [], 0, False  # since the last look
    for action in [*actions, "look"]:
        if action == "write":
            tick += 1
            tape.append(line(tick))
            new.append(tick)
        elif action == "rotate":
            tape.rotate()
            rotated += 1
        elif action == "seal":
            seal_parts(folder, "ticks")
            sealed = rotated > 0
        else:
            lost = rotated > 1 or sealed
            assert seen(tail) == (None if lost else new)
            tail = Tail(folder, "ticks", IDENTITY) if lost else tail
            new, rotated, sealed = [], 0, False
    tape.close()


def test_it_begins_where_the_tape_ends(folder: Path) -> None:
    tape = Tape(folder)
    tape.append(line(1))
    tape.rotate()
    tape.append(line(2))
    tail = Tail(folder, "ticks", IDENTITY)
    tape.append(line(3))
    assert seen(tail) == [3]
    tape.close()


def test_a_line_comes_when_it_is_whole(folder: Path) -> None:
    tail = Tail(folder, "ticks", IDENTITY)
    assert seen(tail) == [], "not even a file"
    with open(folder / LIVE, "wb", buffering=0) as file:
        file.write(line(1) + line(2)[:20])
        assert seen(tail) == [1]
        file.write(line(2)[20:])
        assert seen(tail) == [2]
        file.write(b"\0garbage\n" + line(3))
        assert seen(tail) == [3]


def test_what_is_on_its_way_is_met_once(folder: Path, tmp_path: Path) -> None:
    tape = Tape(folder)
    ring = Ring(ring_path(f"{IDENTITY}-{tmp_path.name}", "ticks", 0, 0), folder, 64 << 10)
    tail = Tail(folder, "ticks", f"{IDENTITY}-{tmp_path.name}")
    try:
        for tick in (1, 2, 3):
            assert ring.put(line(tick))
        assert seen(tail) == [1, 2, 3], "in the ring alone"
        tape.append(line(1), line(2))
        assert seen(tail) == [], "in both"
        ring.take(len(line(1) + line(2)))
        assert ring.put(line(4))
        assert seen(tail) == [4]
        tape.append(line(3), line(4))
        ring.take(len(line(3) + line(4)))
        assert seen(tail) == [], "on the tape alone"
        tape.append(line(5))
        assert seen(tail) == [5]
    finally:
        ring.close()
        tape.close()


def test_a_tape_that_is_gone_or_shorter_is_lost(folder: Path) -> None:
    tape = Tape(folder)
    tape.append(line(1), line(2))
    tail = Tail(folder, "ticks", IDENTITY)
    tape.cut(len(line(2)))
    assert seen(tail) is None
    tape.close()
    shutil.rmtree(folder)
    assert seen(tail) is None
