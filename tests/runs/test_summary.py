import math
import shutil
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.curves import POINTS
from metronorm.runs.summary import Best, summarize

from ..clock.virtual import VirtualTime
from ..store.tapes import MS, write_training


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
    assert found.measures == {"loss": Best(4.0, 1.0, 7), "validation_loss": Best(10.0, 5.0, 5)}
    assert found.tick_median_ns == 85
    assert found.tick_p95_ns == pytest.approx(125.5)
    assert found.phases["forward"] == pytest.approx(300 / sum(walls))
    assert sum(found.phases.values()) == pytest.approx(1.0)
    assert found.counts == {"tokens": 1000}
    assert found.per_second["tokens"] == pytest.approx(1000 / sum(walls) * 1e9)
    assert found.peak_memory_bytes is not None
    drawn = [tick for tick, _ in found.curves["loss"].points()]
    assert drawn == [1, 2, 3, 4, 6, 7, 8, 9, 10], "NaN is no point"
    assert found.notices == []


def test_ranks_are_put_together(tmp_path: Path) -> None:
    """What each rank counts is added up; what they share is shown once; rank 1 is late."""

    def late(tick: int, rank: int, phases: dict[str, float]) -> None:
        phases["backward"] += 50.0 * (rank == 1)

    def metrics(tick: int, rank: int) -> dict[str, float]:
        shared = {"loss": 8.0 / tick, "learning_rate": 0.1, "validation_accuracy": tick / 100}
        return shared | {"images": 30 + rank, "tokens": 5.0}

    run = write_training(tmp_path / "run", 0, ticks=40, ranks=2, plant=late, metrics=metrics)
    found = summarize(open_run(run))
    assert (found.ticks, found.ranks) == (40, 2)
    assert found.counts == {"tokens": 400, "images": 40 * 61}
    assert found.per_second["images"] == pytest.approx(40 * 61 / found.seconds)
    assert found.measures["loss"] == Best(0.2, 0.2, 40)
    assert found.measures["validation_accuracy"] == Best(0.4, 0.4, 40)
    ((slowest,),) = (
        open_run(run)
        .ticks()
        .fetch("select max(wall) from (select sum(wall_ns) as wall from ticks group by rank)")
    )
    assert found.seconds == pytest.approx(slowest / 1e9)
    assert found.straggler is not None
    assert found.straggler.rank == 1
    assert found.straggler.late_ns == pytest.approx(50 * MS, rel=0.1)
    alike = write_training(tmp_path / "alike", 0, ticks=40, ranks=2)
    assert summarize(open_run(alike)).straggler is None


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
    with Clock(tmp_path / "early", progress=False) as clock:
        clock.event("stop", reason="no better loss")
        clock.event("stop", reason="another")
    assert summarize(open_run(tmp_path / "early")).state == "stopped: no better loss"
    with Clock(tmp_path / "whole", progress=False) as clock:
        clock.event("stop", why="of a script")
    assert summarize(open_run(tmp_path / "whole")).state == "finished"
    with Clock(tmp_path / "live", progress=False):
        found = summarize(open_run(tmp_path / "live"))
        # a killed process leaves the same files, and no process has them open
        shutil.copytree(tmp_path / "live", tmp_path / "left")
    assert found.state == "running"
    assert "killed" in summarize(open_run(tmp_path / "left")).state
    assert found.ticks == 0
    assert found.measures == {}


def test_measures_of_an_evaluation(tmp_path: Path) -> None:
    """The first of equal values is the best, as for checkpoints."""
    values = {
        "accuracy": [0.1, math.nan, 0.9, 0.9, 0.7],
        "validation_score": [1.0, 3.0, 2.0, math.inf, 0.0],
        "validation_odd": [1.0, 2.0, 3.0, 4.0, 5.0],
        "test_f1": [0.6],
        "learning_rate": [0.1, 0.1, 0.1, 0.1, 0.1],
    }
    config = {"best": "score", "best_mode": "max"}
    with Clock(tmp_path / "run", config=config, progress=False) as clock:
        for tick in clock.ticks(range(5)):
            clock.log(**{name: of[tick] for name, of in values.items() if tick < len(of)})
    assert summarize(open_run(tmp_path / "run")).measures == {
        "accuracy": Best(0.7, 0.9, 3),
        "validation_score": Best(0.0, 3.0, 2),
        "validation_odd": Best(5.0, None, None),
        "test_f1": Best(0.6, 0.6, 1),
    }
