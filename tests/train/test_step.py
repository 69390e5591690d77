from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.clock import Clock
from metronorm.errors import DivergenceError
from metronorm.models.config import GPTConfig
from metronorm.models.gpt import GPT
from metronorm.optim import Window
from metronorm.runs import open_run
from metronorm.tasks.text import Config
from metronorm.tasks.text.gpt_task import count, loss
from metronorm.train import OptimizerConfig, Task
from metronorm.train.evaluate import evaluate
from metronorm.train.rank_beats import rank_windows
from metronorm.train.step import Step

CONFIG = Config(
    model=GPTConfig(vocab_size=11, context=8, layers=1, heads=2, width=8),
    optimizer=OptimizerConfig(learning_rate=0.01, warmup=0.0, clip=0.5),
    ticks=10,
)
Beat = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def step(config: Config = CONFIG) -> Step:
    torch.manual_seed(0)
    model = GPT(config.model).double()
    task = Task(lambda: model, [], loss, count, unit="tokens")
    return Step(task, config, model, torch.device("cpu"))


def beat(rows: int, length: int, seed: int) -> Beat:
    tokens = np.random.default_rng(seed).integers(0, 11, (rows, length + 1))
    return tokens[:, :-1], tokens[:, 1:]


def window(beats: list[Beat]) -> Window[Beat]:
    return next(rank_windows(iter(beats), len(beats), count))


def ticks(one: Step, run: Path, batches: list[list[Beat]]) -> list[float]:
    with Clock(run, progress=False) as clock:
        for beats in clock.ticks(batches):
            one.tick(clock, window(beats))
    return [row["loss"] for row in open_run(run).ticks().rows()]


@pytest.mark.parametrize("splits", [[6], [3, 3], [1, 2, 3], [1, 1, 1, 1, 1, 1]])
def test_however_a_batch_is_split_the_update_is_the_same(tmp_path: Path, splits: list[int]) -> None:
    whole, split = step(), step()
    batches = [beat(6, 8, seed) for seed in range(4)]
    edges = np.cumsum([0, *splits])
    parts = [[(x[a:b], y[a:b]) for a, b in pairwise(edges)] for x, y in batches]
    assert ticks(split, tmp_path / "split", parts) == pytest.approx(
        ticks(whole, tmp_path / "whole", [[one] for one in batches]), rel=1e-6
    )
    for mine, theirs in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def test_every_token_of_a_window_weighs_the_same(tmp_path: Path) -> None:
    """Beats of different length: the mean is over tokens, not over beats."""
    one = step()
    beats = [beat(1, 8, 1), beat(3, 2, 2)]
    with torch.no_grad():
        sums = [one.model(torch.tensor(x), torch.tensor(y)).item() for x, y in beats]
    (loss,) = ticks(one, tmp_path / "run", [beats])
    assert loss == pytest.approx(sum(sums) / (8 + 6), rel=1e-6)
    assert loss != pytest.approx((sums[0] / 8 + sums[1] / 6) / 2, rel=1e-4)


def test_the_record_of_a_tick(tmp_path: Path) -> None:
    one = step()
    with Clock(tmp_path / "run", progress=False) as clock:
        beats = rank_windows(iter([beat(2, 8, 0), beat(2, 8, 1)]), 2, count)
        for both in clock.ticks(beats):
            one.tick(clock, both)
    (row,) = open_run(tmp_path / "run").ticks().rows()
    assert row["tokens"] == 32
    assert row["beats"] == 2
    assert row["learning_rate"] == pytest.approx(one.optimizer.param_groups[0]["lr"])
    assert row["gradient_norm"] > 0
    phases = [
        row[f"{name}_ns"] for name in ("data", "forward", "backward", "update", "unattributed")
    ]
    assert sum(phases) == row["wall_ns"]


def test_clipping_bounds_the_gradient() -> None:
    """One step of plain gradient descent moves by the clipped norm times the learning rate."""
    one = step(replace(CONFIG, optimizer=replace(CONFIG.optimizer, clip=1e-3)))
    one.try_out(beat(2, 8, 0))
    one.optimizer = torch.optim.SGD(one.model.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in one.model.parameters()]
    norm = one._update(1, 1.0, torch.tensor(1.0))
    assert norm > 1e-3
    moved = sum(
        float((new.detach() - old).square().sum())
        for new, old in zip(one.model.parameters(), before, strict=True)
    )
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    one = step()
    with torch.no_grad():
        next(one.model.parameters())[3, 0] = float("nan")
    before = [parameter.detach().clone() for parameter in one.model.parameters()]
    with pytest.raises(
        DivergenceError, match="a loss of nan in tick 1; try: from a checkpoint before"
    ):
        ticks(one, tmp_path / "run", [[beat(8, 8, 0)]])
    for old, new in zip(before, one.model.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(7.0), new.detach().nan_to_num(7.0))
    assert open_run(tmp_path / "run").ticks().rows() == []


def test_evaluation_is_the_mean_over_tokens_and_changes_nothing() -> None:
    one = step(replace(CONFIG, model=replace(CONFIG.model, dropout=0.5)))
    beats = [beat(2, 8, 0), beat(1, 5, 1)]
    state = torch.get_rng_state()
    first = evaluate(one.model, beats, one.sums, count)["loss"]
    assert first == evaluate(one.model, beats, one.sums, count)["loss"], "no dropout in evaluation"
    assert torch.equal(state, torch.get_rng_state())
    one.model.eval()
    with torch.no_grad():
        total = sum(one.model(torch.tensor(x), torch.tensor(y)).item() for x, y in beats)
    assert first == pytest.approx(total / 21)


def test_matrices_decay_and_vectors_do_not() -> None:
    groups = step().optimizer.param_groups
    assert all(p.dim() >= 2 for p in groups[0]["params"])
    assert groups[0]["weight_decay"] == CONFIG.optimizer.weight_decay
    assert all(p.dim() < 2 for p in groups[1]["params"])
    assert groups[1]["weight_decay"] == 0.0


def test_compiled_is_the_same(tmp_path: Path) -> None:
    plain = ticks(step(), tmp_path / "plain", [[beat(2, 8, seed)] for seed in range(2)])
    compiled = step(replace(CONFIG, compile=True))
    assert ticks(
        compiled, tmp_path / "compiled", [[beat(2, 8, seed)] for seed in range(2)]
    ) == pytest.approx(plain, rel=1e-6)
