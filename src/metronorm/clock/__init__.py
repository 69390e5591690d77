"""Ticks as time: record what every update of the parameters did and cost.

>>> from metronorm.clock import Clock
>>> from metronorm.runs import open_run
>>> with Clock("runs/mine", config={"learning_rate": 1e-3}, progress=False) as clock:
...     for batch in clock.ticks([[1, 2], [3]]):
...         with clock.phase("forward"):
...             loss = sum(batch)
...         clock.log(loss=loss, tokens=len(batch))
>>> open_run("runs/mine").ticks().sql("select tick, loss, tokens from ticks").fetchall()
[(1, 3.0, 2.0), (2, 3.0, 1.0)]

For any training loop: this package imports no framework. `metronorm.runs` reads the runs.
"""

from metronorm.clock.clock import Clock
from metronorm.clock.stall import StallWatch
from metronorm.store.run_directory import RunInfo, check_free, read_run_info

__all__ = ["Clock", "RunInfo", "StallWatch", "check_free", "read_run_info"]
