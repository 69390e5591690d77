"""Ticks as time: record what every update of the parameters did and cost, and read it back.

    with Clock("runs/mine", config={"learning_rate": 1e-3}) as clock:
        for batch in clock.ticks(loader):
            with clock.phase("forward"):
                loss = model(batch)
            clock.log(loss=loss, tokens=batch.numel())

    open_run("runs/mine").ticks().df()

Usable in any loop: no framework is imported here.
"""

from metronorm.clock.clock import Clock
from metronorm.clock.reader import Run, Table, open_run
from metronorm.clock.run import RunInfo, read_run_info

__all__ = ["Clock", "Run", "RunInfo", "Table", "open_run", "read_run_info"]
