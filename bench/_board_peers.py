"""Other boards on the same numbers: written in their formats, and served.

Each writes through its own code. trackio takes ten thousand rows a second and Aim two thousand
values, so what they store of the rest of a long run is written into trackio's table, and Aim gets
one metric. Aim (`pip install aim`) may live in an environment of its own: it is run as a program.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import numpy as np
import psutil
from _board_data import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = "bench"
_AIM = Path(__file__).with_name("_board_aim.py")


# --- the numbers --------------------------------------------------------------------------------


def rows_of(run: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Each tick of a sealed run, with its metrics."""
    with duckdb.connect() as connection:
        parts = f"read_parquet('{run}/ticks/*/*/*.parquet')"
        there = connection.execute(f"select * from {parts} limit 0").description or []
        names = [name for name in METRICS if name in {column for column, *_ in there}]
        connection.execute(f"select tick, {', '.join(names)} from {parts} order by tick")
        while batch := connection.fetchmany(10_000):
            for tick, *values in batch:
                yield tick, dict(zip(names, values, strict=True))


def write_tensorboard(run: Path, folder: Path) -> None:
    """An event file, one record for all metrics of a step."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder / run.name), max_queue_size=10_000)
    for step, metrics in rows_of(run):
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        writer.add_event(Event(step=step, wall_time=step / 10, summary=Summary(value=values)))
    writer.close()


def write_trackio(run: Path, folder: Path) -> None:
    """The first row by trackio itself, the rest like it into the same table."""
    from trackio.utils import serialize_values

    plain: Any = serialize_values  # its way to write NaN

    folder.mkdir(parents=True, exist_ok=True)
    code = (
        "from trackio.sqlite_storage import SQLiteStorage as store\n"
        f"store.bulk_log({PROJECT!r}, {run.name!r}, [{{'loss': 1.0}}], steps=[0])\n"
        f"print(store.get_project_db_path({PROJECT!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRACKIO_DIR": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    with contextlib.closing(sqlite3.connect(done.stdout.split()[-1])) as database:
        found = database.execute("select * from metrics order by id desc limit 1")
        names = [name for name, *_ in found.description]
        like = dict(zip(names, found.fetchone(), strict=True))
        database.execute("delete from metrics where id = ?", (like.pop("id"),))

        def row(step: int, metrics: dict[str, float]) -> tuple[Any, ...]:
            changed = {"step": step, "metrics": json.dumps(plain(metrics))}
            if like.get("log_id") is not None:
                changed["log_id"] = f"{run.name}-{step}"
            return tuple((like | changed).values())

        marks = ", ".join("?" * len(like))
        query = f"insert into metrics ({', '.join(like)}) values ({marks})"
        database.executemany(query, (row(*each) for each in rows_of(run)))
        database.commit()


def write_aim(run: Path, folder: Path) -> None:
    """The loss by `Run.track`, a step at a time: 1,000,000 take several minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / f"{run.name}.npy"
    np.save(numbers, np.array([(step, metrics["loss"]) for step, metrics in rows_of(run)]))
    subprocess.run([aim_python(), str(_AIM), str(numbers), str(folder)], check=True)
    numbers.unlink()


def aim_python() -> str:
    """The interpreter that has Aim: `METRONORM_BENCH_AIM`, or this one."""
    return os.environ.get("METRONORM_BENCH_AIM", sys.executable)


def has_aim() -> bool:
    """Whether that interpreter has Aim."""
    done = subprocess.run([aim_python(), "-c", "import aim"], check=False, capture_output=True)
    return done.returncode == 0


# --- the servers --------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(command: list[str], url: str, **environment: str) -> Iterator[psutil.Process]:
    """A server until the block ends, from when it answers."""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
    ) as process:
        whole = psutil.Process(process.pid)
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                time.sleep(0.02)
            else:
                raise RuntimeError(f"{' '.join(command)} ended at once")
            yield whole
        finally:
            # TensorBoard does not end by itself once its own server has ended
            if process.poll() is None:
                for each in [*whole.children(recursive=True), whole]:
                    each.kill()


def memory_mib(process: psutil.Process) -> float:
    """The resident memory of a server and of the processes that it started."""
    family = [process, *process.children(recursive=True)]
    return sum(float(each.memory_info().rss) for each in family) / 2**20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    url = f"http://127.0.0.1:{(port := free_port())}/"
    # without TensorFlow, which it would import where it is installed
    code = (
        "import sys, types\n"
        "sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf')\n"
        "from tensorboard.main import run_main\n"
        "run_main()"
    )
    command = [sys.executable, "-c", code, "--logdir", str(folder), "--port", str(port)]
    with serving(command, url) as process:
        yield url, process


@contextlib.contextmanager
def trackio(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    url = f"http://127.0.0.1:{(port := free_port())}/"
    code = f"import trackio; trackio.show({PROJECT!r}, open_browser=False, block_thread=True)"
    more = {"TRACKIO_DIR": str(folder), "GRADIO_SERVER_PORT": str(port)}
    with serving([sys.executable, "-c", code], url, **more) as process:
        yield url, process


@contextlib.contextmanager
def aim(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    url = f"http://127.0.0.1:{(port := free_port())}/"
    code = "from aim.cli.cli import cli_entry_point; cli_entry_point()"
    command = [aim_python(), "-c", code, "up", "--repo", str(folder), "--port", str(port)]
    with serving(command, url, AIM_UI_TELEMETRY_ENABLED="0") as process:
        yield url, process


def _aim_page() -> str:
    """The explorer of metrics with the loss chosen, as its own address has it."""

    def packed(value: Any) -> str:
        text = urllib.parse.quote(json.dumps(value, separators=(",", ":")), safe=":,#-")
        return "O-" + base64.b64encode(text.encode()).decode()

    option = {"label": "loss", "group": "loss", "type": "metrics", "color": "#3E72E7"}
    option["key"] = packed({"metricName": "loss", "contextName": ""})
    chosen = option | {"value": {"option_name": "loss", "context": None}}
    query = {"options": [chosen], "query": "", "advancedMode": False, "advancedQuery": ""}
    return f"metrics?select={packed(query)}"


class Peer(NamedTuple):
    """How a board's numbers are written and served, and where its page has the charts."""

    write: Callable[[Path, Path], None]
    serve: Callable[[Path], contextlib.AbstractContextManager[tuple[str, psutil.Process]]]
    page: str  # the path of the page with the charts
    chart: str  # a selector of the plotted area


PEERS = {
    "TensorBoard": Peer(write_tensorboard, tensorboard, "#timeseries", "line-chart"),
    "trackio": Peer(write_trackio, trackio, f"metrics?project={PROJECT}", ".vega-embed"),
    "Aim": Peer(write_aim, aim, _aim_page(), ".LineChart"),
}
