"""What recording a tick costs the training thread, beside peers, interleaved in one process.

A tick here does nothing but record: four phases and five metrics with the clock; five scalars with
TensorBoard's SummaryWriter, trackio, W&B, Aim, MLflow and Lightning's CSVLogger, which have no
phases; four phases with TraceML, which has no metrics. The bare loop is subtracted.

    python bench/clock.py
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _rows import append

from metronorm.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS, TICKS = 20, 250

METRICS = {
    "loss": 1.2345678,
    "tokens": 12_288,
    "learning_rate": 0.000987,
    "gradient_norm": 0.4321,
    "accuracy": 0.8765,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        os.environ["TRACKIO_DIR"] = str(place / "trackio")
        contenders: dict[str, Callable[[int], list[int]]] = {
            "bare loop": bare,
            "metronorm Clock": metronorm(place, stack),
            "tensorboard SummaryWriter": tensorboard(place, stack),
            "trackio": trackio(stack),
            "wandb offline": wandb(place, stack),
            "aim": aim(place, stack),
            "mlflow sqlite": mlflow(place, stack),
            "lightning CSVLogger": csv_logger(place),
            "traceml": traceml(place, stack),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        used: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(ROUNDS + 1):
            for name, run in contenders.items():
                before = processor_us()
                spent = run(TICKS)
                if turn:  # the first is the warm-up
                    times[name] += [ns / 1e3 for ns in spent]
                    used[name].append((processor_us() - before) / TICKS)
    floor = statistics.median(times.pop("bare loop"))
    idle = statistics.median(used.pop("bare loop"))
    for name, samples in times.items():
        cost = [sample - floor for sample in samples]
        append("clock", f"{name}, per tick", "us", cost)
        p999 = statistics.quantiles(cost, n=1000)[-1]
        append("clock", f"{name}, per tick, 99.9th percentile", "us", [p999])
        processor = [sample - idle for sample in used[name]]
        append("clock", f"{name}, processor per tick, all threads and children", "us", processor)


def processor_us() -> float:
    """Of this process with all its threads, and of its children."""
    import psutil

    spent = time.process_time_ns() / 1e3
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            spent += (times.user + times.system) * 1e6
    return spent


def bare(ticks: int) -> list[int]:
    now = time.perf_counter_ns
    spent = []
    begin = now()
    for _ in range(ticks):
        end = now()
        spent.append(end - begin)
        begin = end
    return spent


def metronorm(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    clock = stack.enter_context(Clock(folder / "run", progress=False))
    loop = clock.ticks(iter(int, 1))

    def run(ticks: int) -> list[int]:
        now = time.perf_counter_ns
        spent = []
        next(loop)  # ends the tick that was open since the last round
        begin = now()
        for _ in range(ticks):
            with clock.phase("forward"):
                pass
            with clock.phase("backward"):
                pass
            with clock.phase("update"):
                pass
            clock.log(**METRICS)
            next(loop)  # the fourth phase, `data`, is here
            end = now()
            spent.append(end - begin)
            begin = end
        return spent

    return run


def tensorboard(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))
    stack.callback(writer.close)

    def record(step: int) -> None:
        for name, value in METRICS.items():
            writer.add_scalar(name, value, step)

    return recording(record)


def trackio(stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    import trackio as peer

    peer.init(project="bench", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    stack.callback(peer.finish)
    return recording(lambda step: peer.log(METRICS, step=step))


def wandb(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    import wandb as peer

    settings = peer.Settings(x_disable_stats=True, console="off", silent=True)
    run = peer.init(mode="offline", dir=str(folder), settings=settings)
    stack.callback(run.finish)
    return recording(lambda step: run.log(METRICS, step=step))


def aim(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    from aim import Run

    run = Run(repo=str(folder), system_tracking_interval=None, log_system_params=False)
    stack.callback(run.close)

    def record(step: int) -> None:
        for name, value in METRICS.items():
            run.track(value, name=name, step=step)

    return recording(record)


def mlflow(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    import mlflow as peer

    peer.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    peer.start_run()
    stack.callback(peer.end_run)
    return recording(lambda step: peer.log_metrics(METRICS, step=step))


def csv_logger(folder: Path) -> Callable[[int], list[int]]:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(str(folder / "csv"))

    def record(step: int) -> None:
        logger.log_metrics(METRICS, step)
        if step % logger._flush_logs_every_n_steps == 0:  # as its Trainer does
            logger.save()

    return recording(record)


def traceml(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    import subprocess

    import torch
    import traceml_ai as peer

    class Nothing(torch.nn.Module):
        def forward(self) -> None: ...

        def backward(self) -> None: ...

        def step(self) -> None: ...

    settings = ["--logs-dir", str(folder / "traceml"), "--aggregator-port", "29799"]
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("traceml")), "serve", *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(server.wait)
    stack.callback(server.terminate)
    peer.init(
        mode="manual",
        logs_dir=str(folder / "traceml"),
        ui_mode="summary",
        aggregator_port=29799,
        connect_timeout_sec=60,
        on_missing_aggregator="raise",
    )
    model, optimizer, loss = peer.wrap_forward(Nothing()), peer.wrap_optimizer(Nothing()), Nothing()
    batches = iter(peer.wrap_dataloader_fetch(iter(int, 1)))

    def record(step: int) -> None:
        with peer.trace_step(model):
            next(batches)
            model.forward()
            peer.wrap_backward(loss).backward()
            optimizer.step()

    return recording(record)


def recording(record: Callable[[int], Any]) -> Callable[[int], list[int]]:
    step = 0

    def run(ticks: int) -> list[int]:
        nonlocal step
        now = time.perf_counter_ns
        spent = []
        begin = now()
        for _ in range(ticks):
            step += 1
            record(step)
            end = now()
            spent.append(end - begin)
            begin = end
        return spent

    return run


if __name__ == "__main__":
    main()
