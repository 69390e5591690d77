"""Peers of the clock: each opened in a folder, as a function that records the numbers of a step.

Each wants a process of its own. Where one samples the machine beside, that is switched off.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    Record = Callable[[int, dict[str, float]], object]
    Tracker = Callable[[Path, ExitStack], Record]

METRICS = {
    "loss": 1.2345678,
    "tokens": 12_288.0,
    "learning_rate": 0.000987,
    "gradient_norm": 0.4321,
    "accuracy": 0.8765,
}


def tensorboard(folder: Path, stack: ExitStack) -> Record:
    """What torch brings, as torch sets it: a queue of ten, flushed every two minutes."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder))
    stack.callback(writer.close)

    def record(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return record


def trackio(folder: Path, stack: ExitStack) -> Record:
    """A thread writes to SQLite twice a second."""
    os.environ.setdefault("TRACKIO_DIR", str(folder))
    import trackio as peer

    peer.init(project=folder.name, embed=False, auto_log_gpu=False, auto_log_cpu=False)
    stack.callback(peer.finish)
    return lambda step, metrics: peer.log(metrics, step=step)


def wandb(folder: Path, stack: ExitStack) -> Record:
    """Offline: a process beside, `wandb-core`, writes a file."""
    import wandb as peer

    settings = peer.Settings(x_disable_stats=True, console="off", silent=True)
    run = peer.init(mode="offline", dir=str(folder), settings=settings)
    stack.callback(run.finish)
    return lambda step, metrics: run.log(metrics, step=step)


def aim(folder: Path, stack: ExitStack) -> Record:
    """A thread writes to RocksDB."""
    from aim import Run

    run = Run(repo=str(folder), system_tracking_interval=None, log_system_params=False)
    stack.callback(run.close)

    def record(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            run.track(value, name=name, step=step)

    return record


def mlflow(folder: Path, stack: ExitStack) -> Record:
    """SQLite, at once."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow as peer

    logging.getLogger("alembic").setLevel(logging.WARNING)
    peer.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    peer.start_run()
    stack.callback(peer.end_run)
    return lambda step, metrics: peer.log_metrics(metrics, step=step)


def csv_logger(folder: Path, stack: ExitStack) -> Record:
    """Lightning's: writes every hundred steps; used by a Trainer, whenever that logs."""
    from lightning.pytorch.loggers import CSVLogger

    logger: Any = CSVLogger(str(folder), name=None, version="csv")
    stack.callback(logger.save)
    return lambda step, metrics: logger.log_metrics(metrics, step)


TRACKERS: dict[str, Tracker] = {
    "tensorboard SummaryWriter": tensorboard,
    "trackio": trackio,
    "wandb offline": wandb,
    "aim": aim,
    "mlflow sqlite": mlflow,
    "lightning CSVLogger": csv_logger,
}
