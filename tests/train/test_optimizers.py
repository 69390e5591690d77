from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metronorm.errors import ConfigError, DivergenceError
from metronorm.models.config import GPTConfig
from metronorm.models.gpt import GPT
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.tasks.text.gpt_task import hidden_matrices
from metronorm.train import OptimizerConfig, train
from metronorm.train.optimizers import groups_of, make_optimizer

from .tiny import losses, tiny_config

KINDS = {
    "adamw": torch.optim.AdamW,
    "ticks": Ticks,
    "ticks_sign": TicksSign,
    "ticks_muon": TicksMuon,
    "ticks_adam": TicksAdam,
}
RATES = {"adamw": 1e-2, "ticks": 0.1, "ticks_sign": 2e-3, "ticks_muon": 1e-2, "ticks_adam": 1e-2}


def model(**changes: Any) -> GPT:
    torch.manual_seed(0)
    sizes = GPTConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, bias=True)
    return GPT(replace(sizes, **changes))


def optimizer(name: Any, **changes: Any) -> OptimizerConfig:
    clip = 0.0 if name == "ticks_adam" else 1.0
    return OptimizerConfig(name=name, **{"clip": clip, "learning_rate": RATES[name], **changes})


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name: str, tied: bool) -> None:
    one = model(tie_embeddings=tied)
    config = optimizer(name)
    groups = groups_of(one, config, hidden_matrices(one))
    made = make_optimizer(one, config, torch.device("cpu"), groups)
    assert type(made) is KINDS[name]
    given = [p for group in made.param_groups for p in group["params"]]
    assert len(given) == len(set(given)) == len(list(one.parameters()))
    for group in made.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.dim() >= 2 else 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_matrices_of_the_blocks(tied: bool) -> None:
    one = model(tie_embeddings=tied)
    config = optimizer("ticks_muon", matrix_learning_rate=0.5)
    groups = groups_of(one, config, hidden_matrices(one))
    made = make_optimizer(one, config, torch.device("cpu"), groups)
    names = {id(p): name for name, p in one.named_parameters()}
    first, *rest = made.param_groups
    assert [names[id(p)] for p in first["params"]] == [
        f"blocks.{i}.{name}.weight"
        for i in range(2)
        for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.out")
    ]
    assert [p.shape for p in first["params"]] == [p.shape for p in hidden_matrices(one)]
    assert first["lr"] == 0.5
    assert first["method"] == "muon"
    assert all(group["method"] == "adamw" and group["lr"] == 1e-2 for group in rest)


def test_what_ticks_adam_cannot_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot clip.*--optimizer.clip 0"):
        optimizer("ticks_adam", clip=1.0)


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_is_the_run(tmp_path: Path, name: str) -> None:
    """Stopped after 15 of 30 ticks, between two evaluations: the same losses, bit for bit."""
    config = tiny_config(tmp_path, optimizer=optimizer(name), ticks=30)
    train(text.task, config, tmp_path / "whole")
    found = losses(tmp_path / "whole")
    assert found[-1][1] < found[0][1] - 0.05, "it learns"
    for path in sorted((tmp_path / "whole" / "checkpoints").glob("*")):
        if path.name > "tick-00000025":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    train(text.task, config, tmp_path / "whole", resume=True)
    assert open_run(tmp_path / "whole").attempts == [0, 1]
    assert losses(tmp_path / "whole") == found


@pytest.mark.parametrize("name", ["ticks", "ticks_sign", "ticks_muon"])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_split_window_is_the_big_batch(tmp_path: Path, name: str, clip: float) -> None:
    """Two micro-batches of four sequences, or one of eight: the same curve."""
    small = tiny_config(tmp_path, optimizer=optimizer(name, clip=clip), ticks=8)
    small = replace(small, model=replace(small.model, dropout=0.0))
    train(text.task, small, tmp_path / "two")
    train(text.task, replace(small, batch_size=8, micro_batches=1), tmp_path / "one")
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    tolerance = 1e-2 if name == "ticks_muon" else 1e-4  # of bfloat16, of signs about zero
    assert [loss for _, loss, _ in two] == pytest.approx(
        [loss for _, loss, _ in one], rel=tolerance
    )


@pytest.mark.parametrize("name", ["ticks", "ticks_muon"])
def test_the_norm_is_on_record_where_it_is_known(tmp_path: Path, name: str) -> None:
    config = tiny_config(tmp_path, optimizer=optimizer(name), ticks=3)
    train(text.task, config, tmp_path / "clipped")
    rows = open_run(tmp_path / "clipped").ticks().rows()
    assert all(row["gradient_norm"] > 0 for row in rows)
    assert {row["beats"] for row in rows} == {2}
    train(text.task, replace(config, optimizer=optimizer(name, clip=0.0)), tmp_path / "not")
    assert "gradient_norm" not in open_run(tmp_path / "not").ticks().columns


@pytest.mark.parametrize("name", KINDS)
def test_divergence_says_what_to_do(tmp_path: Path, name: str) -> None:
    config = tiny_config(tmp_path, ticks=200)
    steep = optimizer(name, learning_rate=1e20, matrix_learning_rate=1e20, warmup=0.0, clip=0.0)
    with pytest.raises(DivergenceError, match=r"--optimizer\.learning-rate"):
        train(text.task, replace(config, optimizer=steep), tmp_path / "run")
