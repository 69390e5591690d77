"""Comparing two recorded runs: the time of a tick, and the loss at equal places.

>>> from metronorm.clock import Clock
>>> from metronorm.runs import open_run
>>> from metronorm.runs.comparing import compare
>>> with Clock("runs/mine", progress=False) as clock:
...     for _ in clock.ticks(range(60)):
...         clock.log(loss=1.0)
>>> run = open_run("runs/mine")
>>> compare(run, run).measures["tick_median_ns"].ratio
1.0

docs/compare.md describes how the intervals are made.
"""

from metronorm.runs.comparing.comparison import Comparison, Side, compare
from metronorm.runs.comparing.losses import LossAt, Reached
from metronorm.runs.comparing.statements import Verdict
from metronorm.runs.comparing.times import Measure

__all__ = [
    "Comparison",
    "LossAt",
    "Measure",
    "Reached",
    "Side",
    "Verdict",
    "compare",
]
