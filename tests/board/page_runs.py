"""Runs for tests of the page: what the clock records, with all that a page must show."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from metronorm.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

TICKS = 400
SPIKE, NAN, INF, ZERO = 77, 200, 210, 300  # ticks of `loss` in the run "odd"
HTML = "<img src=x onerror=alert(1)>"
ANSI = "red\x1b[31m\u202e"
LAYERS = ("blocks.0.norm", "blocks.1.norm", "last")


def record_all(folder: Path) -> None:
    """Three runs: "plain", "odd" with values that have no place on an axis, and one with HTML."""
    for number, name in enumerate(("plain", "odd", HTML.replace("/", ""))):
        chance = random.Random(number)
        config = {"optimizer": {"name": ("ticks", "adam")[number % 2]}, "lr": 10.0 ** -(number + 2)}
        with Clock(folder / f"run-{number}", name=name, config=config, progress=False) as clock:
            for tick in clock.ticks(range(1, TICKS + 1)):
                with clock.phase("forward"):
                    loss = 4 / math.sqrt(tick) + chance.gauss(0, 0.05)
                if number == 1:
                    loss = {SPIKE: 50.0, NAN: math.nan, INF: math.inf, ZERO: 0.0}.get(tick, loss)
                clock.log(loss=loss, learning_rate=1e-3 * (1 - tick / TICKS), tokens=128)
                if tick % 20 == 0:
                    clock.log(**{f"norm.{layer}.rms": chance.gauss(1, 0.1) for layer in LAYERS})
                    clock.log(validation_loss=loss + 0.1)
                if number == 2:
                    clock.log(**{HTML: 1.0, ANSI: 2.0})
                if tick in (100, 300):
                    clock.event("checkpoint", path=f"tick-{tick:08}")
                    clock.sample("poem", f"<b>tick {tick}</b>")
