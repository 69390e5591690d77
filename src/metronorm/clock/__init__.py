"""Ticks as time: record what every update of the parameters did and cost, and read it back.

>>> from metronorm.clock import Clock, open_run
>>> with Clock("runs/mine", config={"learning_rate": 1e-3}, progress=False) as clock:
...     for batch in clock.ticks([[1, 2], [3]]):
...         with clock.phase("forward"):
...             loss = sum(batch)
...         clock.log(loss=loss, tokens=len(batch))
>>> open_run("runs/mine").ticks().sql("select tick, loss, tokens from ticks").fetchall()
[(1, 3.0, 2.0), (2, 3.0, 1.0)]

Usable in any loop: no framework is imported here.
"""

from metronorm.clock.clock import Clock
from metronorm.clock.reader import Run, open_run
from metronorm.clock.run import RunInfo, check_free, read_run_info
from metronorm.clock.stall import StallWatch
from metronorm.clock.table import Table

__all__ = [
    "Clock",
    "Run",
    "RunInfo",
    "StallWatch",
    "Table",
    "check_free",
    "open_run",
    "read_run_info",
]
