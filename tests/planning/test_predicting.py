"""What is predicted for several processes, by hand and against what the kernel counts."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from metronorm.errors import ConfigError
from metronorm.planning import plan

from ..train.world_task import config_of, task

if TYPE_CHECKING:
    from metronorm.planning.predicting import Prediction

BENCH = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "predicting.py"))

# of `world_task.Net` in float64: two layers of a matrix and three vectors, and two more matrices
LAYER = 8 * (10 * 10 + 3 * 10)
OUTSIDE = 8 * (10 * 7 + 10 + 3 * 10 + 3)
MODEL = 2 * LAYER + OUTSIDE
STEPS = 4 * 12  # AdamW counts the steps of each parameter


def predicted(processes: int, **changes: Any) -> Prediction:
    return plan(task, config_of(**changes), processes=processes).prediction


def test_one_process_sends_nothing() -> None:
    found = predicted(1, ema=0.9)
    assert found.sent_bytes == 0
    kinds = {"parameters": MODEL, "gradients": MODEL, "optimizer": 2 * MODEL + STEPS}
    assert found.held == kinds | {"averages": MODEL, "activations": found.held["activations"]}
    # at least the inputs of each matrix, for five rows
    assert 8 * 5 * (3 * 10) < found.held["activations"] < 20_000
    assert found.held_bytes == sum(found.held.values())


@pytest.mark.parametrize(
    ("beats", "processes", "copies"), [(4, 4, 1), (2, 4, 1), (4, 2, 2), (4, 3, 2)]
)
def test_ddp_keeps_the_gradients_of_earlier_beats_beside_its_buckets(
    beats: int, processes: int, copies: int
) -> None:
    found = predicted(processes, micro_batches=beats)
    assert found.held["gradients"] == copies * MODEL
    assert found.held["optimizer"] == 2 * MODEL + STEPS
    assert found.sent_bytes == 2 * (processes - 1) * MODEL // processes
    idle = beats % processes > 0
    assert (found.held["activations"] >= MODEL) or not idle


def test_fsdp_divides_rows() -> None:
    found = predicted(3, parallel="fsdp", ema=0.9)
    layer = 8 * 4 * (10 + 3)  # four of ten rows
    part = 2 * layer + 8 * (4 * 7 + 4 + 1 * 10 + 1)
    assert found.held["parameters"] == found.held["gradients"] == found.held["averages"] == part
    assert found.held["optimizer"] == 2 * part + STEPS
    whole, outside = 3 * layer, 3 * (part - 2 * layer)
    assert found.held["gathered"] == 2 * outside + 3 * whole
    # two rounds; gloo reduces all for everybody
    assert found.sent_bytes == 2 * 2 * (outside + 4 * whole + 2 * (outside + 2 * whole)) // 3


def test_ticks_has_no_other_state_until_it_needs_a_buffer_of_its_own() -> None:
    ticks = {"name": "ticks", "clip": 0.0}
    assert predicted(1, optimizer=ticks).held["optimizer"] == 0
    assert predicted(2, optimizer=ticks, parallel="fsdp").held["optimizer"] == 0
    assert predicted(2, optimizer=ticks).held["optimizer"] == MODEL, "buckets are not the sum"
    assert predicted(1, optimizer=ticks | {"clip": 1.0}).held["optimizer"] == MODEL


def test_what_is_for_one_process_is_refused() -> None:
    config = config_of(optimizer={"name": "ticks_adam", "clip": 0.0})
    assert plan(task, config).prediction.processes == 1
    with pytest.raises(ConfigError, match="ticks_adam is for one process"):
        plan(task, config, processes=2)


def test_gradients_that_are_new_come_while_activations_go() -> None:
    two, one = (predicted(1, micro_batches=beats).held for beats in (2, 1))
    assert one["activations"] == max(0, two["activations"] - MODEL)
    ticks = {"name": "ticks", "clip": 0.0}  # its gradients are the sum
    two, one = (predicted(1, micro_batches=beats, optimizer=ticks).held for beats in (2, 1))
    assert one == two


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts bytes by process")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_kernel_counts_what_was_predicted(parallel: str) -> None:
    changes = {"width": 256, "layers": 4}
    config = BENCH["config_of"](parallel, "ticks, clipped", **changes)
    expected = plan(BENCH["task"], config, processes=2).prediction
    found = BENCH["measured"](parallel, "ticks, clipped", 2, changes)
    assert len(found) == 2
    for each in found:
        assert each["sent"] == pytest.approx(expected.sent_bytes, rel=0.01)
        assert each["held"] == pytest.approx(expected.held_bytes, rel=0.1)
