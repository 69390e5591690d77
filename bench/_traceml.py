"""TraceML as it is meant to be used: with its aggregator beside, which records."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import ExitStack

_NAME = "bench"


def start_traceml(folder: Path, stack: ExitStack, mode: str) -> Any:
    """Initialise it in this process; its module.

    Raises:
        RuntimeError: at the end: it has not recorded; that is, not half of the steps, as some of
            many that take no time are dropped.
    """
    import traceml_ai as peer
    from traceml_ai.runtime import lifecycle
    from traceml_ai.runtime.state import get_trace_session_state

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = [str(Path(sys.executable).with_name("traceml")), "serve"]
    command += ["--logs-dir", str(folder), "--run-name", _NAME, "--aggregator-port", str(port)]
    server = subprocess.Popen(command)

    def stop() -> None:
        # in this order: the server waits for the process to say that it has finished
        handle = lifecycle.get_active_runtime_handle()
        if handle is not None:
            handle.stop()
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()
        server.wait()

    def check() -> None:
        steps = get_trace_session_state().step
        with contextlib.closing(sqlite3.connect(folder / _NAME / "aggregator/telemetry")) as base:
            query = "select count(distinct step) from step_time_samples"
            ((recorded,),) = base.execute(query).fetchall()
        if recorded < steps / 2:
            raise RuntimeError(f"TraceML has recorded {recorded} of {steps} steps")

    stack.callback(check)
    stack.callback(stop)
    peer.init(
        mode=mode,
        logs_dir=str(folder),
        session_id=_NAME,
        ui_mode="summary",
        aggregator_port=port,
        connect_timeout_sec=60,
        on_missing_aggregator="raise",
    )
    return peer
