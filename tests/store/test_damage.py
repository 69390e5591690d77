"""Of a damaged tape, intact lines are read, all others are counted, and nothing crashes."""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.errors import RunError
from metronorm.runs import Run, open_run
from metronorm.store import ring as rings
from metronorm.store.run_directory import tape_folder
from metronorm.store.sealing import recover_all, seal_run
from metronorm.store.tape import LIVE, Tape, encode

from .stores import line, new_run, numbers, write_ring, write_tape

TIME_NS = 1_800_000_000_000_000_000
LINES: dict[str, list[bytes]] = {
    "ticks": [line(tick, {"loss": "nan", "größe": tick / 7}) for tick in range(1, 8)],
    "events": [
        encode({"event": "ü", "tick": tick, "time_ns": TIME_NS + tick, "fields": {"a": [tick, {}]}})
        for tick in range(1, 8)
    ],
    "resources": [
        encode({"tick": tick, "time_ns": TIME_NS + tick, "values": {"a_bytes": 2.0**tick, "b": 1}})
        for tick in range(1, 8)
    ],
}
TICK = LINES["ticks"][0].strip()

# lines that no clock writes, although they look similar
NO_TICKS = {
    "an integer of 67 bits": TICK.replace(b'"tick":1', b'"tick":99999999999999999999'),
    "an integer of 64 bits": TICK.replace(b'"tick":1', b'"tick":9223372036854775808'),
    "phases of 64 bits": TICK.replace(b'"forward":2', b'"forward":9223372036854775808'),
    "no integer": TICK.replace(b'"tick":1', b'"tick":1.5'),
    "text that is no number": TICK.replace(b'"nan"', b'"abc"'),
    "beyond floats": TICK.replace(b'"nan"', b"1e999"),
    "a digit for each nanosecond": TICK.replace(b'"nan"', b"1" * 400),
    "null": TICK.replace(b'"nan"', b"null"),
    "no Unicode": TICK.replace(b"loss", b"lo\xffs"),
    "half a character": TICK.replace(b"loss", b"\\ud800"),
    "no name": TICK.replace(b"loss", b""),
    "nothing": b"{}",
    "a list": b"[" + TICK + b"]",
    "two records": TICK + TICK,
    "very deep": TICK[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "zeros": bytes(4096),
    "long": b"x" * 300_000,
    "a quote": b'{"',
}
# lines that are ticks, although they look strange; with their loss
TICKS = {
    "as it should be": (TICK, "nan"),
    "space": (b" \t" + TICK.replace(b":", b" : ") + b"\r", "nan"),
    "a metric twice": (TICK.replace(b'"loss":"nan"', b'"loss":3,"loss":4'), "4.0"),
    "the tick twice": (b'{"tick":5,' + TICK[1:], "nan"),
    "unknown": (b'{"attempt":7,"x":"\xff",' + TICK[1:], "nan"),
    "many digits": (TICK.replace(b'"nan"', b"1" * 30), "1.111111111111111e+29"),
    "a name of the record's own": (TICK.replace("größe".encode(), b"TICK"), "nan"),
    "a large tick": (TICK.replace(b'"tick":1', b'"tick":9223372036854775807'), "nan"),
    "a zero in a name": (TICK.replace("größe".encode(), b"\\u0000"), "nan"),
    "escapes": (TICK.replace(b"loss", b"\\u006coss"), "nan"),
}


@pytest.fixture(autouse=True, scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder for rings, so that no other test finds them."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rings, "shared_folder", lambda: folder)
        yield folder


def left_out(run: Run) -> int:
    """How many lines the notices report as left out."""
    count = 0
    for notice in run.notices():
        found = re.search(r"(\d+) damaged lines|the last line is torn", notice)
        assert found, notice
        count += int(found[1] or 1)
    return count


def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut off, change or insert some bytes."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["cut", "flip", "insert", "insert", "drop"]))
        if how == "cut":
            data = data[:at]
        elif how == "drop":
            data = data[:at] + data[at + draw(st.integers(1, 300)) :]
        elif how == "flip" and at < len(data):
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        else:
            garbage = draw(
                st.sampled_from([b"\0", b"\n", b"\xff\xfe", b'"', b"\r", b"}{", *NO_TICKS.values()])
                | st.binary(max_size=30)
            )
            data = data[:at] + garbage + data[at:]
    return data


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from(["ticks", "ticks", "events", "resources"]))
def test_intact_lines_are_read_and_the_others_are_counted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    run = new_run(tmp_path_factory.mktemp("damage") / "run")
    content = data.draw(st.composite(lambda draw: damage(draw, b"".join(LINES[kind])))())
    folder = tape_folder(run, kind, 0, 0)
    folder.mkdir(parents=True)
    (folder / LIVE).write_bytes(content)
    *lines, torn = content.split(b"\n")
    intact = Counter(json.loads(one)["tick"] for one in lines if one + b"\n" in LINES[kind])
    all_lines = sum(map(bool, lines)) + bool(torn)
    for sealed in (False, True):
        if sealed:
            seal_run(run)
        read = open_run(run)
        rows = {"ticks": read.ticks, "events": read.events, "resources": read.resources}[kind]()
        found = Counter(row["tick"] for row in rows.rows())
        assert found >= intact
        assert found.total() + left_out(read) == all_lines


@pytest.mark.parametrize("what", NO_TICKS)
def test_lines_that_are_no_ticks(tmp_path: Path, what: str) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [*LINES["ticks"][:2], NO_TICKS[what] + b"\n", *LINES["ticks"][2:]])
    for sealed in (False, True):
        if sealed:
            seal_run(run)
        assert numbers(run) == list(range(1, 8))
        assert left_out(open_run(run)) == 1


@pytest.mark.parametrize("what", TICKS)
def test_lines_that_are_ticks(tmp_path: Path, what: str) -> None:
    content, loss = TICKS[what]
    run = new_run(tmp_path / "run")
    write_tape(run, [content + b"\n", line(2)])
    for sealed in (False, True):
        if sealed:
            seal_run(run)
        rows = open_run(run).ticks("full").rows()
        assert sorted(str(row["loss"]) for row in rows) == sorted(["0.5", loss])
        assert [(row["attempt"], row["forward_ns"]) for row in rows] == [(0, 2), (0, 2)]
        assert left_out(open_run(run)) == 0


def test_events_that_are_too_deep_or_too_large(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    event = LINES["events"][0]
    deep = event.replace(b"[1,", b"[" * 100_000 + b"]" * 100_000 + b",[")
    large = event.replace(b"[1,", b"[" + b"1" * 5_000 + b",")
    write_tape(run, [deep, large, event], kind="events")
    assert [row["tick"] for row in open_run(run).events().rows()] == [1]
    assert left_out(open_run(run)) == 2


def test_resources_that_are_no_integers(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    sample = LINES["resources"][0]
    write_tape(run, [sample.replace(b"2.0", b"1e300"), LINES["resources"][1]], kind="resources")
    assert [row["a_bytes"] for row in open_run(run).resources().rows()] == [None, 4]


@pytest.mark.parametrize("seed", range(3))
def test_garbage_instead_of_a_tape(tmp_path: Path, seed: int) -> None:
    run = new_run(tmp_path / "run")
    garbage = random.Random(seed).randbytes(50_000) if seed else bytes(50_000)
    for kind in LINES:
        write_tape(run, [garbage], kind=kind)
    write_tape(run, LINES["ticks"], rank=1)
    for sealed in (False, True):
        if sealed:
            seal_run(run)
        read = open_run(run)
        assert numbers(read) == list(range(1, 8))
        assert read.events().rows() == read.resources().rows() == []
        assert left_out(read) == 3 * (len(list(filter(None, garbage.split(b"\n")))))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_ring(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    run = new_run(tmp_path_factory.mktemp("damage") / "run")
    folder = write_tape(run, LINES["ticks"][:3])
    ring = write_ring(run, folder, *LINES["ticks"][2:])
    content = bytearray(ring.read_bytes())
    for at, value in flips:
        # a ring has its words at the begin and its data after the first page
        content[at if at > 4000 else at % 64] = value
    ring.write_bytes(content)
    assert Counter(numbers(run)) >= Counter([1, 2, 3])
    recover_all()
    seal_run(run)
    assert Counter(numbers(run)) >= Counter([1, 2, 3])
    ring.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda info: info | {"schema": 2}, r"schema 2 in .*upgrade"),
        (lambda info: {name: info[name] for name in info if name != "id"}, "a damaged file"),
        (lambda info: [], "a damaged file"),
    ],
)
def test_run_json(tmp_path: Path, change: Callable[[Any], Any], match: str) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, LINES["ticks"])
    path = run / "run.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    for use in (open_run, seal_run):
        with pytest.raises(RunError, match=match):
            use(run)


def test_a_run_without_tapes(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    assert seal_run(run) == 0
    read = open_run(run)
    assert read.attempts == []
    assert read.notices() == []
    for table in (read.ticks(), read.events(), read.resources(), read.ticks_with_resources()):
        assert table.rows() == []
        assert table.columns[:3] == ["attempt", "rank", "tick"]
    assert read.ticks().sql("select max(time_ns) - min(time_ns) from ticks").fetchall() == [(None,)]


def test_a_tape_that_is_an_empty_folder(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    tape_folder(run, "ticks", 0, 0).mkdir(parents=True)
    assert numbers(run) == []
    assert open_run(run).notices() == []
    assert seal_run(run) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to another user")
def test_lines_in_the_ring_of_another_user_are_reported(tmp_path: Path, shared: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [])
    ring = write_ring(run, folder, line(1), line(2))
    assert numbers(run) == [1, 2]
    os.chown(ring, 12345, -1)
    assert numbers(run) == []
    (notice,) = open_run(run).notices()
    assert f"may be in {ring}" in notice
    assert "metronorm seal, run by that user, writes them" in notice
    tape = Tape(folder)
    assert open_run(run).notices() == [], "while it is written that is only a moment"
    tape.close()


UNREADABLE = """
import os, sys
from pathlib import Path
from metronorm.runs import open_run
from metronorm.errors import RunError

run, *hidden = map(Path, sys.argv[1:])
assert len(open_run(run).ticks().rows()) == 2
os.setuid(12345)
for path in hidden:
    try:
        os.listdir(path) if path.is_dir() else path.read_bytes()
    except PermissionError:
        pass
    else:
        raise AssertionError(path)
try:
    open_run(run).ticks().rows()
except RunError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(
    "hidden",
    [
        "ticks",
        "ticks/attempt=0",
        "ticks/attempt=0/rank=0",
        "ticks/attempt=0/rank=0/" + LIVE,
        "ticks/attempt=0/rank=0/part-00000.parquet",
    ],
)
def test_a_file_that_may_not_be_read_is_an_error(hidden: str) -> None:
    """It is not read as a run with fewer ticks, or none."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        run = new_run(Path(base, "run"))
        write_tape(run, [line(1), line(2)])
        if hidden.endswith(".parquet"):
            seal_run(run)
        (run / hidden).chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", UNREADABLE, run, run / hidden],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "must be readable; got" in done.stdout
        assert f"{run / hidden}: Permission denied" in done.stdout


def test_nothing_waits_for_pipes_in_the_place_of_files(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1)], [])
    seal_run(run)
    for name in ("_part-00007.jsonl", LIVE, "part-x.parquet", "part-00009.parquet"):
        os.mkfifo(folder / name)
    os.mkfifo(folder / "_part-00000.damaged")
    read = open_run(run)
    assert numbers(run) == [1]
    assert read.notices() == [
        f"{folder / name}: a damaged part was left out"
        for name in ("part-00009.parquet", "part-x.parquet")
    ]


def test_a_part_with_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, LINES["ticks"][:3], LINES["ticks"][3:], [])
    seal_run(run)
    first, _ = sorted(run.glob("ticks/*/*/*.parquet"))
    first.write_bytes(first.read_bytes().replace("größe".encode(), b"gr\xff\xff\xff\xffe"))
    read = open_run(run)
    assert numbers(read) == [4, 5, 6, 7]
    (notice,) = read.notices()
    assert first.name in notice
