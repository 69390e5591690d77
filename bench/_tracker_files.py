"""What trackers really have on disk: the steps that are there, read as each reads its files."""

from __future__ import annotations

import contextlib
import csv
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LAST = "accuracy"  # metric of a step


def tensorboard(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    steps = []
    for path in folder.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(path)).Load():
            steps += [event.step for value in event.summary.value if value.tag == LAST]
    return steps


def trackio(folder: Path) -> list[int]:
    from trackio.sqlite_storage import SQLiteStorage

    path = SQLiteStorage.get_project_db_path(folder.name)
    if not path.exists():
        return []
    return _query(path, "select step from metrics")


def wandb(folder: Path) -> list[int]:
    from metronorm.integrations.importing.wandb_file import WandbLog

    return [
        step
        for path in folder.glob("wandb/offline-run-*/*.wandb")
        for step, _, row in WandbLog(path).rows
        if LAST in row
    ]


def aim(folder: Path) -> list[int]:
    """Resumed: a reader alone does not see a run whose process is dead."""
    from aim import Run

    steps: list[int] = []
    for path in (folder / ".aim/meta/chunks").iterdir():
        run = Run(path.name, repo=str(folder), system_tracking_interval=None)
        for metric in run.metrics():
            if metric.name == LAST:
                steps += metric.data.indices_list()
        run.close()
    return steps


def mlflow(folder: Path) -> list[int]:
    return _query(folder / "mlflow.db", f"select step from metrics where key = '{LAST}'")


def csv_logger(folder: Path) -> list[int]:
    path = folder / "csv/metrics.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[LAST]]


def _query(path: Path, query: str) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as base:
        return [step for (step,) in base.execute(query)]


STEPS_ON_DISK: dict[str, Callable[[Path], list[int]]] = {
    "tensorboard SummaryWriter": tensorboard,
    "trackio": trackio,
    "wandb offline": wandb,
    "aim": aim,
    "mlflow sqlite": mlflow,
    "lightning CSVLogger": csv_logger,
}
