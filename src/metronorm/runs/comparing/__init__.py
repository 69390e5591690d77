"""Two recorded runs against each other: what a tick costs, and where the loss is when.

>>> from metronorm.clock import Clock
>>> from metronorm.runs import open_run
>>> from metronorm.runs.comparing import compare
>>> with Clock("runs/mine", progress=False) as clock:
...     for _ in clock.ticks(range(60)):
...         clock.log(loss=1.0)
>>> run = open_run("runs/mine")
>>> compare(run, run).measures["tick_median_ns"].ratio
1.0

docs/compare.md tells how the intervals are made.
"""

from metronorm.runs.comparing.comparison import Comparison, Side, compare
from metronorm.runs.comparing.losses import LossAt, Reached
from metronorm.runs.comparing.times import Measure
from metronorm.runs.comparing.words import Verdict, parse_percent

__all__ = [
    "Comparison",
    "LossAt",
    "Measure",
    "Reached",
    "Side",
    "Verdict",
    "compare",
    "parse_percent",
]
