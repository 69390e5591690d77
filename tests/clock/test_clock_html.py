"""A clock in a notebook."""

import copy
import math
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from metronorm.clock import Clock
from metronorm.clock.clock_html import MOST_METRICS

from .virtual import VirtualTime

HOSTILE = "<img src=x onerror=alert(1)>"


def text_of(clock: Clock) -> str:
    return " ".join(ElementTree.fromstring(clock._repr_html_()).itertext())


def test_a_clock_says_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clock = Clock("runs/one", progress=False)
    assert repr(clock) == "<Clock 'runs/one': not open>"
    assert "not open" in text_of(clock)
    with clock:
        assert repr(clock) == "<Clock 'runs/one': recording, tick 0>"
        for _ in clock.ticks([1, 2]):
            assert f"recording, tick {clock.tick}" in text_of(clock)
        assert "records nothing in this process" in repr(copy.copy(clock))
    assert repr(clock) == "<Clock 'runs/one': closed, tick 2>"
    assert "open_run('runs/one')" in text_of(clock)


def test_a_clock_shows_the_newest_tick_and_where_its_time_went(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / os.fsdecode(b"run"), progress=False, now=time) as clock:
        for _ in clock.ticks([1]):
            with clock.phase("forward"):
                time.pass_(30_000)
            time.pass_(10_000)
            clock.log(loss=math.nan, tokens=128, **{HOSTILE: 0.5})
        html, text = clock._repr_html_(), text_of(clock)
    assert "<img" not in html
    assert f"tick 1 value loss nan tokens 128 {HOSTILE} 0.5000" in text
    assert "time of tick 1 40 µs" in text
    assert "forward 30 µs 75%" in text
    assert "unattributed 10 µs 25%" in text


def test_metrics_that_are_left_out_are_counted(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks([1]):
            clock.log(**{f"metric {number}": 1.0 for number in range(MOST_METRICS + 5)})
        assert "and 5 more metrics" in text_of(clock)
