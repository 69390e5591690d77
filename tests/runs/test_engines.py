"""Sealed parts are plain Parquet, which other engines read unchanged while the run is written."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from metronorm.runs import open_run
from metronorm.store import ring as rings
from metronorm.store.run_directory import folder_number
from metronorm.store.sealing import seal_run
from metronorm.store.tape import LIVE, Tape

from ..store.stores import line, new_run, write_tape

Rows = list[dict[str, Any]]

CHDB = """
import sys
from chdb import session

print(session.Session().query(sys.stdin.read(), "JSONCompactEachRow"))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with attempts, ranks, parts of different columns, and a tape that is being written."""
    base = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rings, "shared_folder", lambda: base)
        run = new_run(base / "run")
        write_tape(
            run,
            [line(1), line(2, {"loss": "nan", "only here": 1e-320})],
            [line(3, {"other": -0.0, "größe": 5}), line(4, {"loss": "-inf"}, phases={})],
        )
        write_tape(run, [line(1, arrival_ns=7), line(2, {})], rank=1)
        write_tape(run, [line(3, phases={"backward": 3, "unattributed": 0}), line(4)], attempt=1)
        seal_run(run)
        folder = write_tape(run, [line(tick) for tick in range(3, 5)], [], attempt=1, rank=1)
        tape = Tape(folder)
        assert seal_run(run) == 1
        (folder.parent / ".launch").touch()
        (folder / ".part-00009.parquet.host.1.0.tmp").write_bytes(b"half")
        (folder / "_part-00000.damaged").write_bytes(b"garbage")
        tape.append(b"half of a line")
        yield run
        tape.close()


def test_the_run_is_live(run: Path) -> None:
    assert len(list(run.rglob("*.parquet"))) == 5
    assert [path.stat().st_size for path in run.rglob(LIVE)] == [14]


def duckdb_rows(ticks: Path) -> Rows:
    found = duckdb.sql(
        f"from read_parquet('{ticks}/**/*.parquet', hive_partitioning = true, union_by_name = true)"
    )
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def pandas_rows(ticks: Path) -> Rows:
    pandas = pytest.importorskip("pandas")
    whole = pandas.read_parquet(ticks).astype({"attempt": int, "rank": int})
    found: Rows = whole.to_dict("records")
    return found


def pandas_parts(ticks: Path) -> Rows:
    """Rows of each part, with all of its columns."""
    pandas = pytest.importorskip("pandas")
    parts = [
        pandas.read_parquet(part).assign(
            attempt=folder_number(part.parents[1]), rank=folder_number(part.parent)
        )
        for part in sorted(ticks.rglob("*.parquet"))
    ]
    found: Rows = pandas.concat(parts).to_dict("records")
    return found


def polars_rows(ticks: Path) -> Rows:
    polars = pytest.importorskip("polars")
    found: Rows = (
        polars.scan_parquet(
            ticks / "**/*.parquet",
            hive_partitioning=True,
            missing_columns="insert",
            extra_columns="ignore",
        )
        .collect()
        .to_dicts()
    )
    return found


def arrow_rows(ticks: Path) -> Rows:
    dataset = pytest.importorskip("pyarrow.dataset")
    schemas = [
        dataset.dataset(part, partitioning=None).schema for part in sorted(ticks.rglob("*.parquet"))
    ]
    arrow = pytest.importorskip("pyarrow")
    places = arrow.schema([("attempt", arrow.int32()), ("rank", arrow.int32())])
    found: Rows = (
        dataset.dataset(
            ticks,
            schema=arrow.unify_schemas([*schemas, places]),
            partitioning=dataset.partitioning(places, flavor="hive"),
        )
        .to_table()
        .to_pylist()
    )
    return found


def chdb_rows(ticks: Path) -> Rows:
    """Rows by chDB, in a separate process: it contains a whole server."""
    pytest.importorskip("chdb")
    columns = [*PLAIN, "forward_ns", "backward_ns", "loss", "other", "only here", "größe"]
    listed = ", ".join(f'"{name}"' for name in columns)
    query = f"""select {listed} from file('{ticks}/**/*.parquet', Parquet)
    settings use_hive_partitioning = 1, schema_inference_mode = 'union',
        output_format_json_quote_denormals = 1, output_format_json_quote_64bit_integers = 0"""
    done = subprocess.run(
        [sys.executable, "-c", CHDB], input=query, capture_output=True, text=True, check=True
    )
    return [
        {
            name: float(value) if isinstance(value, str) else value
            for name, value in zip(columns, json.loads(row, parse_int=whole), strict=True)
        }
        for row in done.stdout.splitlines()
        if row
    ]


def whole(text: str) -> float:
    return -0.0 if text == "-0" else int(text)


PLAIN = ["attempt", "rank", "tick", "time_ns", "wall_ns", "beats", "clock_ns"]


def same(one: Any, other: Any) -> bool:
    """Whether two values of a column are the same; some engines read a missing one as NaN."""
    missing = [value is None or value != value for value in (one, other)]
    if any(missing):
        return all(missing)
    return bool(one == other) and math.copysign(1, one) == math.copysign(1, other)


@pytest.mark.parametrize(
    "engine",
    [duckdb_rows, pandas_rows, pandas_parts, polars_rows, arrow_rows, chdb_rows],
    ids=lambda engine: engine.__name__,
)
def test_all_that_is_sealed_is_read(run: Path, engine: Callable[[Path], Rows]) -> None:
    def place(row: dict[str, Any]) -> tuple[int, ...]:
        return row["attempt"], row["rank"], row["tick"]

    ours = sorted(open_run(run).ticks("full").rows(), key=place)
    theirs = sorted(engine(run / "ticks"), key=place)
    assert [place(row) for row in ours] == [place(row) for row in theirs]
    for our, their in zip(ours, theirs, strict=True):
        names = their.keys() & our.keys()
        for name in names:
            assert same(our[name], their[name]), (name, our, their)
        if engine in (pandas_rows, polars_rows):  # the columns of the first part
            assert names > {*PLAIN, "forward_ns", "loss", "only here"}
        else:
            assert names >= our.keys() - {"arrival_ns", "unattributed_ns"}


def test_nan_is_not_missing(run: Path) -> None:
    """This holds in the engines that have both."""
    for engine in (duckdb_rows, polars_rows, arrow_rows):
        rows = engine(run / "ticks")
        assert sum(row["loss"] is None for row in rows) == 2
        assert sum(row["loss"] is not None and math.isnan(row["loss"]) for row in rows) == 1
