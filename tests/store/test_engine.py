"""Databases are used again, never shared, and not where DuckDB has given them up."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from metronorm.runs import open_run
from metronorm.store import engine
from metronorm.store.engine import connect
from metronorm.store.sealing import seal_run

from .stores import line, new_run, numbers, write_tape

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_free_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_free", {})


def database(connection: duckdb.DuckDBPyConnection) -> Any:
    """What tells databases apart: each has a folder of its own for what does not fit in memory."""
    return connection.execute("select current_setting('temp_directory')").fetchone()


def give_up(path: Path) -> None:
    """Damage a Parquet file so that DuckDB gives up the database that reads it."""
    content = path.read_bytes()
    with duckdb.connect(config={"threads": 1}) as connection:
        for at in reversed(range(4, len(content) - 8)):
            path.write_bytes(content[:at] + b"\x7f" + content[at + 1 :])
            try:
                connection.execute(f"select * from '{path}'").fetchall()
            except duckdb.InternalException:
                with pytest.raises(duckdb.FatalException):
                    connection.execute("select 1")
                return
            except (duckdb.Error, UnicodeDecodeError):
                pass
    raise AssertionError("no such damage was found")


def test_a_database_is_used_again_with_nothing_left_in_it() -> None:
    with connect(threads=1) as first:
        first.execute("create temp table lines as select 1")
        first.execute("set parquet_metadata_cache = true")
        known = database(first)
    del first
    with connect(threads=1) as second:
        assert database(second) == known
        assert second.execute("show tables").fetchall() == []
        query = "select current_setting('parquet_metadata_cache')"
        assert second.execute(query).fetchall() == [(False,)]


def test_connections_that_are_open_have_databases_of_their_own() -> None:
    several = [connect(threads=1) for _ in range(10)] + [connect()]
    assert len(set(map(database, several))) == 11
    several.clear()
    assert sum(map(len, engine._free.values())) == engine._MOST_FREE + 1


def test_many_threads_never_have_the_same_one() -> None:
    used, failed = set[str](), list[str]()
    lock, begin = threading.Lock(), threading.Barrier(8)

    def use() -> None:
        begin.wait()
        for _ in range(50):
            connection = connect(threads=1)
            (name,) = database(connection)
            with lock:
                if name in used:
                    failed.append(name)
                used.add(name)
            connection.execute("select sum(i) from range(1000) t(i)").fetchall()
            with lock:
                used.discard(name)
            del connection

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_database_that_was_given_up_is_not_used_again(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(1), line(2)], [])
    seal_run(run)
    (part,) = run.glob("ticks/*/*/*.parquet")
    give_up(part)
    with connect(threads=1) as first, pytest.raises(duckdb.InternalException):
        first.execute(f"select * from '{part}'").fetchall()
    del first
    with connect(threads=1) as second:
        assert second.execute("select 1").fetchall() == [(1,)]


def test_a_part_for_which_it_gives_up_takes_no_other_with_it(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(1), line(2)], [line(3)], [line(4)], [])
    assert seal_run(run) == 3
    parts = sorted(run.glob("ticks/*/*/*.parquet"))
    give_up(parts[1])
    read = open_run(run, verify=True)
    assert numbers(read) == [1, 2, 4]
    (notice,) = read.notices()
    assert parts[1].name in notice


def test_a_forked_process_ends_well() -> None:
    connect().close()
    process = os.fork()
    if process == 0:
        with connect() as connection:
            found = connection.execute("select 1").fetchall()
        os._exit(found != [(1,)])
    assert os.waitpid(process, 0)[1] == 0
    script = "import os, sys\nfrom metronorm.store.engine import connect\nconnect().close()\n"
    script += "process = os.fork()\nif process: sys.exit(os.waitpid(process, 0)[1])\n"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0
