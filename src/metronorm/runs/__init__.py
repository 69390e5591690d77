"""Recorded runs: read them, follow them while they are written, compare them, find what is wrong.

>>> from metronorm.clock import Clock
>>> from metronorm.runs import open_run
>>> with Clock("runs/mine", progress=False) as clock:
...     for value in clock.ticks([2.0, 1.0]):
...         clock.log(loss=value)
>>> open_run("runs/mine").ticks().sql("select tick, loss from ticks").fetchall()
[(1, 2.0), (2, 1.0)]

A run is a directory (docs/runs.md); nothing here writes into it, and nothing knows of training.
"""

from metronorm.runs.comparing import compare
from metronorm.runs.diagnosing import diagnose
from metronorm.runs.following import Follower
from metronorm.runs.reader import Run, open_run
from metronorm.runs.samples import Sample
from metronorm.runs.summary import summarize
from metronorm.runs.table import Table

__all__ = ["Follower", "Run", "Sample", "Table", "compare", "diagnose", "open_run", "summarize"]
