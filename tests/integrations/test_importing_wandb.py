import importlib.util
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.errors import DataError, MissingDependencyError
from metronorm.integrations.importing import import_run, import_wandb
from metronorm.integrations.importing.wandb_file import WandbFile
from metronorm.runs import open_run
from tests.integrations.event_files import write
from tests.integrations.rows import events, ticks

HAS_WANDB = importlib.util.find_spec("wandb") is not None

# as `run.scan_history()` of W&B's API gives it: what is not finite is text
ROWS: list[dict[str, Any]] = [
    {"_step": 0, "_timestamp": 100.0, "_runtime": 1.0, "train/loss": 1.5, "tick": 3},
    {"_step": 10, "_timestamp": 100.5, "_runtime": 1.5, "train/loss": "NaN", "said": "hello"},
    {"_step": 10, "_timestamp": 100.5, "_runtime": 1.5, "val/loss": "Infinity", "ok": True},
    {"_step": 20, "_timestamp": 101.5, "_runtime": 2.5, "train/loss": 0.5, "system/cpu": 7},
]


def as_numbers() -> list[dict[str, Any]]:
    spelled = {"NaN": float("nan"), "Infinity": float("inf")}
    return [{name: spelled.get(str(value), value) for name, value in row.items()} for row in ROWS]


def frame() -> pd.DataFrame:
    """Such as `run.history()` gives: in it NaN is a value that is missing."""
    return pd.DataFrame(as_numbers())


def check(run: Path, *, all_rows: bool = True) -> None:
    found = ticks(run, "tick", "time_ns", "wall_ns", "tick_")
    assert found == [
        (0, 100_000_000_000, 0, 3.0),
        (10, 100_500_000_000, 500_000_000, None),
        (20, 101_500_000_000, 1_000_000_000, None),
    ]
    losses = ticks(run, "train/loss", "val/loss", "ok", "system/cpu")
    assert losses[0] == (1.5, None, None, None)
    assert losses[1][1:3] == (float("inf"), 1.0)
    assert losses[2] == (0.5, None, None, 7.0)
    if all_rows:
        assert str(losses[1][0]) == "nan"


# --- exported histories --------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert import_wandb(path, tmp_path / "run") == [tmp_path / "run"]
    check(tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.info.name == "history"
    assert run.info.config == {"imported": {"format": "wandb", "source": str(path)}}
    (event,) = events(tmp_path / "run", "text")
    assert event == {"at": 10, "tag": "said", "step": 10, "text": "hello"}
    assert events(tmp_path / "run", "notice") == []


def test_a_json_list_with_pythons_nan(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text(json.dumps(as_numbers()))
    import_wandb(tmp_path / "history.json", tmp_path / "run")
    check(tmp_path / "run")


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "jsonl"])
def test_files_that_pandas_writes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"history.{kind}"
    if kind == "csv":
        frame().to_csv(path)  # with the index, as most people do
    elif kind == "parquet":
        frame().to_parquet(path)
    elif kind == "json":
        frame().to_json(path)  # an object of columns
    else:
        frame().to_json(path, orient="records", lines=True)
    import_wandb(path, tmp_path / "run")
    if kind in ("csv", "parquet"):
        check(tmp_path / "run", all_rows=False)
    else:  # pandas writes neither NaN nor infinity into JSON
        found = ticks(tmp_path / "run", "tick", "train/loss")
        assert found == [(0, 1.5), (10, None), (20, 0.5)]


def test_parts_in_parquet(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(2):
        part = frame().iloc[2 * number : 2 * number + 2].dropna(axis=1, how="all")
        part.to_parquet(tmp_path / "parts" / f"{number:04}.parquet")
    import_run(tmp_path / "parts", tmp_path / "run")
    check(tmp_path / "run", all_rows=False)


def test_samples_of_the_machine(tmp_path: Path) -> None:
    """As in `run.history(stream="system")`, whose rows have no step."""
    sample = {"_timestamp": 100.2, "_runtime": 1.2, "system.gpu.0.gpu": 25.0, "system.cpu": 4.0}
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, sample]))
    import_wandb(tmp_path / "h.jsonl", tmp_path / "run")
    (found,) = open_run(tmp_path / "run").resources().rows()
    assert (found["tick"], found["gpu0_utilization"]) == (10, 0.25)
    assert events(tmp_path / "run", "system") == [{"at": 10, "cpu": 4.0}]


def test_nested_values_and_histograms(tmp_path: Path) -> None:
    row = {
        "_step": 1,
        "_timestamp": 5.0,
        "a": {"b": {"c": 2}},
        "h": {"_type": "histogram", "values": [1, 2], "bins": [0.0, 0.5, 1.0]},
        "picture": {"_type": "image-file", "width": 4},
        "huge": 10**400,
    }
    (tmp_path / "h.jsonl").write_text(json.dumps(row))
    import_wandb(tmp_path / "h.jsonl", tmp_path / "run")
    assert open_run(tmp_path / "run").ticks().metrics == ["a.b.c", "huge"]
    assert ticks(tmp_path / "run", "a.b.c", "huge") == [(2.0, float("inf"))]
    (event,) = events(tmp_path / "run", "histogram")
    assert (event["tag"], event["edges"], event["counts"]) == ("h", [0.0, 0.5, 1.0], [1, 2])


BEGIN = 1_735_689_600_000_000_000


@pytest.mark.parametrize(
    "times",
    [
        ("1735689600", "1735689601"),
        ("1735689600000", "1735689601000"),
        ("1735689600000000", "1735689601000000"),
        ("1735689600000000000", "1735689601000000000"),
        ("2025-01-01T00:00:00Z", "2025-01-01 01:00:01+01:00"),
    ],
)
def test_times_in_other_units_are_recognised(tmp_path: Path, times: tuple[str, str]) -> None:
    rows = "".join(f"{step},{time},{step}.5\n" for step, time in enumerate(times))
    (tmp_path / "h.csv").write_text(f"_step,_timestamp,loss\n{rows}")
    import_wandb(tmp_path / "h.csv", tmp_path / "run")
    found = ticks(tmp_path / "run", "tick", "time_ns", "loss")
    assert found == [(0, BEGIN, 0.5), (1, BEGIN + 10**9, 1.5)]


def test_times_in_parquet_may_have_a_zone(tmp_path: Path) -> None:
    times = pd.to_datetime([BEGIN, BEGIN + 10**9], utc=True)
    frame = pd.DataFrame({"_step": [0, 1], "_timestamp": times, "loss": [1.0, 2.0], "at": times})
    frame.to_parquet(tmp_path / "h[1].parquet")
    frame.assign(loss=0.0).to_parquet(tmp_path / "h1.parquet")
    import_wandb(tmp_path / "h[1].parquet", tmp_path / "run[1]")
    found = ticks(tmp_path / "run[1]", "time_ns", "loss")
    assert found == [(BEGIN, 1.0), (BEGIN + 10**9, 2.0)]


def test_decimals_are_numbers(tmp_path: Path) -> None:
    duckdb.execute(
        "copy (select 1 as _step, 5 as _timestamp, 2.5::decimal(9, 3) as loss) to "
        f"'{tmp_path}/h.parquet'"
    )
    import_wandb(tmp_path / "h.parquet", tmp_path / "run")
    assert ticks(tmp_path / "run", "loss") == [(2.5,)]


BAD_ROWS = [
    '{"_step": "x", "loss": 1}',
    '{"_step": NaN, "loss": 1}',
    '{"_step": Infinity, "loss": 1}',
    '{"_step": [1], "loss": 1}',
    '{"_step": 9223372036854775808, "loss": 1}',
    '{"loss": 1}',
    "5",
    "true",
    '"x"',
    '{"_step": 0',
    "[" * 100_000,
]


def test_rows_that_cannot_be_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [
        '{"_step": 0, "_timestamp": 5, "loss": 2}',
        '{"_step": 1, "_timestamp": "x", "loss": 3}',
    ]
    (tmp_path / "h.jsonl").write_text("\n".join([*good, *BAD_ROWS]))
    import_wandb(tmp_path / "h.jsonl", tmp_path / "run")
    assert ticks(tmp_path / "run", "time_ns", "loss") == [(5 * 10**9, 2.0), (5 * 10**9, 3.0)]
    messages = [notice["message"] for notice in events(tmp_path / "run", "notice")]
    assert messages == [
        "rows left out that have a _step that is not an integer of 64 bits: 5",
        "rows left out that have no _step: 1",
        "rows left out that are not JSON objects: 5",
        "times left out that are not between 1970 and 2262: 1, such as 'x'; those values have "
        "the time of the value before",
    ]
    assert all(message in caplog.text for message in messages)


@pytest.mark.parametrize(
    "histogram",
    [
        {"_type": "histogram"},
        {"_type": "histogram", "bins": [0, 1]},
        {"_type": "histogram", "values": [1], "bins": [0]},
        {"_type": "histogram", "values": ["a"], "bins": [0, 1]},
        {"_type": "histogram", "values": 1, "bins": 2},
        {"_type": "histogram", "values": [1], "packedBins": {"min": 0}},
    ],
)
def test_a_wrong_histogram_is_counted(tmp_path: Path, histogram: dict[str, Any]) -> None:
    row = {"_step": 0, "_timestamp": 1, "loss": 2, "h": histogram}
    (tmp_path / "h.jsonl").write_text(json.dumps(row))
    import_wandb(tmp_path / "h.jsonl", tmp_path / "run")
    assert ticks(tmp_path / "run", "loss") == [(2.0,)]
    (notice,) = events(tmp_path / "run", "notice")
    assert "1 of them of 'h'" in notice["message"]


@pytest.mark.parametrize("name", ["h.csv", "h.jsonl", "h.parquet", "h.wandb"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        import_run(tmp_path / name, tmp_path / "run", kind="wandb")


def test_a_histogram_as_the_service_packs_it(tmp_path: Path) -> None:
    packed = {"min": -1.0, "size": 0.5, "count": 2}
    row = {
        "_step": 0,
        "loss": 1,
        "h": {"_type": "histogram", "values": [3, 4], "packedBins": packed},
    }
    (tmp_path / "h.jsonl").write_text(json.dumps(row))
    import_wandb(tmp_path / "h.jsonl", tmp_path / "run")
    (event,) = events(tmp_path / "run", "histogram")
    assert (event["edges"], event["counts"]) == ([-1.0, -0.5, 0.0], [3, 4])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["_step", "_timestamp", "_runtime", "_type", "bins", "values", "a", "tick"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=4, deadline=None)
@given(st.lists(anything, max_size=12))
def test_any_json_is_imported_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "h.json").write_text(json.dumps([{"_step": 0, "_timestamp": 1, "loss": 1}, *rows]))
    import_wandb(folder / "h.json", folder / "run")
    assert (0, 1.0) in ticks(folder / "run", "tick", "loss", history="full")


def test_cells_of_a_csv_without_a_place_are_noticed(tmp_path: Path) -> None:
    text = b"_step,_timestamp,loss,loss,said\n0,1,2,3,h\xe9\n1,2,3,4,ok,5,6\n"
    (tmp_path / "h.csv").write_bytes(text)
    import_wandb(tmp_path / "h.csv", tmp_path / "run")
    assert ticks(tmp_path / "run", "loss") == [(3.0,), (4.0,)]
    messages = [notice["message"] for notice in events(tmp_path / "run", "notice")]
    assert [message.partition(":")[0] for message in messages] == [
        "columns left out whose names are repeated",
        "rows with cells after the last column, which were left out",
        "rows with bytes that are not UTF-8, now \ufffd",
    ]


def test_a_part_that_cannot_be_read_is_left_out_and_noticed(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    frame().to_parquet(tmp_path / "parts" / "0.parquet")
    (tmp_path / "parts" / "1.parquet").write_bytes(b"PAR1 not at all PAR1")
    import_wandb(tmp_path / "parts", tmp_path / "run")
    check(tmp_path / "run", all_rows=False)
    assert any("1.parquet" in event["message"] for event in events(tmp_path / "run", "notice"))


def test_without_timestamps(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("_step,_runtime,loss\n0,1.5,3\n1,2.5,2\n")
    import_wandb(tmp_path / "h.csv", tmp_path / "run")
    assert ticks(tmp_path / "run", "time_ns", "wall_ns") == [
        (1_500_000_000, 0),
        (2_500_000_000, 1_000_000_000),
    ]
    (notice,) = events(tmp_path / "run", "notice")
    assert "count from 1970" in notice["message"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("chart.csv", b'"Step","first - loss"\n0,1\n', "_step"),
        ("empty.csv", b"", "nothing"),
        ("empty.json", b"[]", "nothing"),
        ("words.csv", b"_step,said\n0,hello\n", "numbers"),
        ("torn.json", b'[{"_step": 0', "JSON"),
        ("other.json", b"[1, 2]", "not JSON objects: 2"),
        ("number.json", b"5", "not JSON objects: 1"),
        ("true.json", b"true", "not JSON objects: 1"),
        ("text.json", b'"x"', "not JSON objects: 1"),
        ("deep.json", b"[" * 100_000, "JSON"),
        ("bytes.csv", b"_step\xff\xfe\n", "_step"),
        ("bytes.parquet", b"PAR1 not at all PAR1", "Parquet"),
        ("bytes.xlsx", b"", "CSV, JSON or Parquet"),
    ],
)
def test_files_that_are_not_a_history(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=expected):
        import_wandb(tmp_path / name, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_history_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .*missing"):
        import_wandb(tmp_path / "missing.csv", tmp_path / "run")


# --- .wandb files --------------------------------------------------------------------------------


def leveldb_log(records: list[bytes]) -> bytes:
    """As W&B writes them (an independent account of the format)."""
    data = bytearray(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))
    for record in records:
        rest, first = record, True
        while first or rest:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += bytes(room)
                room = 32768
            piece, rest = rest[: room - 7], rest[room - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            checksum = zlib.crc32(bytes([kind]) + piece)
            data += struct.pack("<IHB", checksum, len(piece), kind) + piece
            first = False
    return bytes(data)


sizes = st.one_of(st.integers(0, 50), st.integers(32_700, 32_800), st.integers(65_000, 100_000))


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(sizes, max_size=5), data=st.data())
def test_records_cut_off_anywhere(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("wandb") / "run-1.wandb"
    records = [bytes([number]) * size for number, size in enumerate(sizes)]
    whole = leveldb_log(records)
    path.write_bytes(whole)
    file = WandbFile(path)
    assert list(file) == records
    assert file.unread == 0
    cut = data.draw(st.integers(7, len(whole)))
    path.write_bytes(whole[:cut])
    found = list(WandbFile(path))
    assert found == records[: len(found)]
    if cut == len(whole):
        assert found == records
    elif records:
        assert len(found) < len(records) or not records[-1]


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "run-1.wandb").write_bytes(b"something else")
    with pytest.raises(DataError, match="mark"):
        list(WandbFile(tmp_path / "run-1.wandb"))


@pytest.mark.skipif(HAS_WANDB, reason="wandb is installed")
def test_a_wandb_file_needs_wandb(tmp_path: Path) -> None:
    (tmp_path / "run-1.wandb").write_bytes(leveldb_log([]))
    with pytest.raises(MissingDependencyError, match="export the run's history"):
        import_wandb(tmp_path / "run-1.wandb", tmp_path / "run")


def logged_offline(folder: Path, script: str) -> Path:
    """A folder with what wandb itself writes when it runs a script."""
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", f"import wandb\n{script}"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two offline runs as wandb itself writes them; the first was resumed."""
    folder = tmp_path_factory.mktemp("offline")
    script = """
config = {"lr": 0.1, "n": {"a": [1]}}
with wandb.init(project="p", id="one", name="first run", config=config) as run:
    for step in range(5):
        run.log({"loss": float("nan") if step == 2 else step, "train/x": step, "tick": 1,
                 "nested": {"y": 2.5}, "said": "hello", "h": wandb.Histogram([1, 2, 2])})
    run.config.update({"late": True})
    run.alert("careful", "the loss is high")
with wandb.init(project="p", id="one", resume="allow") as run:
    run.log({"loss": 30.0}, step=3)
    run.log({"loss": 40.0}, step=4)
with wandb.init(project="p", id="two", name="second") as run:
    run.log({"loss": 1.0})
"""
    return logged_offline(folder, script)


@pytest.mark.skipif(not HAS_WANDB, reason="needs wandb")
def test_offline_runs(offline: Path, tmp_path: Path) -> None:
    made = import_run(offline, tmp_path / "runs")
    assert made == [tmp_path / "runs" / "first-run", tmp_path / "runs" / "second"]
    run = open_run(made[0])
    assert run.info.name == "first run"
    assert run.info.host["name"]
    assert run.attempts == [0, 1]
    config = {name: run.info.config[name] for name in ("lr", "n", "late")}
    assert config == {"lr": 0.1, "n": {"a": [1]}, "late": True}
    found = ticks(made[0], "attempt", "tick", "loss", "train/x", "nested.y", "tick_")
    assert found[:2] == [(0, 0, 0.0, 0.0, 2.5, 1.0), (0, 1, 1.0, 1.0, 2.5, 1.0)]
    assert found[3:] == [(1, 3, 30.0, None, None, None), (1, 4, 40.0, None, None, None)]
    assert str(found[2][2]) == "nan"
    assert [event["title"] for event in events(made[0], "alert")] == ["careful"]
    assert len(events(made[0], "histogram")) == 5
    assert len(events(made[0], "end")) == 1
    assert run.resources().rows()[0]["memory_bytes"] > 1 << 20
    times = [time_ns for (time_ns,) in ticks(made[0], "time_ns", history="full")]
    assert times == sorted(times)
    assert abs(times[0] - run.directory.stat().st_mtime_ns) < 600e9


@pytest.mark.skipif(not HAS_WANDB, reason="needs wandb")
def test_a_config_and_a_summary_keep_their_values(tmp_path: Path) -> None:
    script = """
config = {"seed": 12345678901234567890, "n": 3, "third": 1 / 3, "inf": float("inf")}
with wandb.init(project="p", id="one", config=config) as run:
    run.log({"loss": 2.0})
    run.summary["best"] = {"step": 10**20, "loss": 0.25}
    run.summary["note"] = "good"
with wandb.init(project="p", id="two", name="only a summary") as run:
    run.summary["accuracy"] = 0.9
    run.summary["note"] = "good"
with wandb.init(project="p", id="three", name="nothing") as run:
    pass
"""
    made = import_wandb(logged_offline(tmp_path / "wandb", script), tmp_path / "runs")
    assert [path.name for path in made] == ["one", "only-a-summary"]
    config = open_run(made[0]).info.config
    wanted = {"seed": 12345678901234567890, "n": 3, "third": 1 / 3, "inf": float("inf")}
    assert {name: config[name] for name in wanted} == wanted
    assert type(config["n"]) is int
    (summary,) = events(made[0], "summary")
    best = {"step": 10**20, "loss": 0.25}
    assert summary == {"at": 0, "values": {"loss": 2, "best": best, "note": "good"}}
    assert ticks(made[1], "tick", "accuracy") == [(0, 0.9)]
    assert [text["text"] for text in events(made[1], "text")] == ["good"]
    notices = [[event["message"] for event in events(run, "notice")] for run in made]
    assert notices == [
        ["runs left out that hold no number: 1, such as 'nothing'"],
        ["the run has a summary and no history: its values are one tick"],
    ]


@pytest.mark.skipif(not HAS_WANDB, reason="needs wandb")
def test_event_files_that_wandb_synced_are_not_imported(offline: Path, tmp_path: Path) -> None:
    (path,) = offline.rglob("*two.wandb")
    folder = tmp_path / "wandb" / "offline-run-two"
    folder.mkdir(parents=True)
    (folder / path.name).write_bytes(path.read_bytes())
    write(folder / "files" / "logs", [("a", 1.0, 0, 0.0)])
    (run,) = import_run(tmp_path / "wandb", tmp_path / "run")
    assert ticks(run, "loss") == [(1.0,)]
    assert any("event files left out: 1" in event["message"] for event in events(run, "notice"))


def test_a_folder_of_wandb_is_not_read_as_tensorboards(tmp_path: Path) -> None:
    run = tmp_path / "wandb" / "run-1"
    write(run / "files" / "logs", [("a", 1.0, 0, 0.0)])
    (run / "run-1.wandb").write_bytes(b"damaged")
    with pytest.raises((DataError, MissingDependencyError), match=r"\.wandb file"):
        import_run(tmp_path / "wandb", tmp_path / "run")
    write(tmp_path / "wandb" / "logs", [("a", 1.0, 0, 0.0)])
    with pytest.raises(DataError, match=r"files of tensorboard and wandb; try: .*--format"):
        import_run(tmp_path / "wandb", tmp_path / "run")
    assert import_run(tmp_path / "wandb", tmp_path / "run", kind="tensorboard")


@pytest.mark.skipif(not HAS_WANDB, reason="needs wandb")
def test_a_bad_wandb_file_is_left_out_and_noticed(offline: Path, tmp_path: Path) -> None:
    (path,) = offline.rglob("*two.wandb")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "bad.wandb").write_bytes(b"something else")
    (run,) = import_wandb(tmp_path / "in", tmp_path / "run")
    assert ticks(run, "loss") == [(1.0,)]
    assert any("bad.wandb was left out" in event["message"] for event in events(run, "notice"))


@pytest.mark.skipif(not HAS_WANDB, reason="needs wandb")
def test_a_torn_wandb_file(offline: Path, tmp_path: Path) -> None:
    (path,) = offline.rglob("*two.wandb")
    cut = tmp_path / path.name
    cut.write_bytes(path.read_bytes()[:-5])
    import_wandb(cut, tmp_path / "run")
    assert ticks(tmp_path / "run", "loss") == [(1.0,)]
    assert events(tmp_path / "run", "end") == []  # that record is the torn one
    assert "cut off" in events(tmp_path / "run", "notice")[0]["message"]
