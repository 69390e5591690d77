import math
import shutil
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.curves import POINTS
from metronorm.runs.summary import Best, summarize

from ..clock.virtual import VirtualTime


def record(run: Path, ticks: int = 10) -> None:
    time = VirtualTime()
    with Clock(run, config={"a": 1}, progress=False, now=time) as clock:
        clock.event("machine", precision="bf16")
        for tick in clock.ticks(range(1, ticks + 1)):
            with clock.phase("forward"):
                time.pass_(30)
            time.pass_(10 * tick)
            clock.log(loss=math.nan if tick == 5 else abs(tick - 7) + 1, tokens=100)
            if tick % 5 == 0:
                clock.log(validation_loss=float(tick))


def test_a_run_in_numbers(tmp_path: Path) -> None:
    record(tmp_path / "run")
    found = summarize(open_run(tmp_path / "run"))
    walls = [30 + 10 * tick for tick in range(1, 11)]
    assert (found.ticks, found.attempts, found.ranks) == (10, 1, 1)
    assert found.state == "finished"
    assert found.machine == "precision bf16"
    assert found.config == {"a": 1}
    assert found.seconds == pytest.approx(sum(walls) / 1e9)
    assert found.losses == {"loss": Best(4.0, 1.0, 7), "validation_loss": Best(10.0, 5.0, 5)}
    assert found.tick_median_ns == 85
    assert found.tick_p95_ns == pytest.approx(125.5)
    assert found.phases["forward"] == pytest.approx(300 / sum(walls))
    assert sum(found.phases.values()) == pytest.approx(1.0)
    assert found.tokens == 1000
    assert found.tokens_per_second == pytest.approx(1000 / sum(walls) * 1e9)
    assert found.peak_memory_bytes is not None
    drawn = [tick for tick, _ in found.curves["loss"].points()]
    assert drawn == [1, 2, 3, 4, 6, 7, 8, 9, 10], "NaN is no point"
    assert found.notices == []


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    record(tmp_path / "run", 3 * POINTS)
    curve = summarize(open_run(tmp_path / "run")).curves["loss"]
    assert len(curve.ticks) == POINTS
    assert curve.ticks == sorted(curve.ticks)


def test_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Clock(tmp_path / "failed", progress=False):
        raise KeyError
    assert summarize(open_run(tmp_path / "failed")).state == "failed: KeyError"
    with Clock(tmp_path / "stopped", progress=False) as clock:
        clock.event("signal", signal="SIGTERM")
    assert summarize(open_run(tmp_path / "stopped")).state == "stopped by SIGTERM"
    with Clock(tmp_path / "live", progress=False):
        found = summarize(open_run(tmp_path / "live"))
        # a killed process leaves the same files, and no process has them open
        shutil.copytree(tmp_path / "live", tmp_path / "left")
    assert found.state == "running"
    assert "killed" in summarize(open_run(tmp_path / "left")).state
    assert found.ticks == 0
    assert found.losses == {}
