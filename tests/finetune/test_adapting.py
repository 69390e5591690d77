"""What trains, in which dtype, and that nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from metronorm.errors import ConfigError
from metronorm.finetune.adapting import adapt, groups
from metronorm.finetune.norm_only import norm_parameters, norms
from metronorm.finetune.ways import AdaptConfig
from metronorm.norm import LayerNorm, RMSNorm
from metronorm.train.config import OptimizerConfig
from metronorm.train.optimizers import make_optimizer
from tests.finetune.adapting import disturb, logits, loss, pretrained
from tests.finetune.tiny import CAUSAL, CLASSIFIER

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.finetune.ways import Body, Way

EVERY = [*CAUSAL, *CLASSIFIER]
WAYS: list[tuple[str, Way]] = [
    *((name, way) for name in EVERY for way in ("full", "lora")),
    *((name, "norm") for name in CAUSAL),
    *((name, way) for name in CLASSIFIER for way in ("head", "norm+head")),
]
BODIES: list[Body] = ["fp32", "bf16"]


@pytest.mark.parametrize(("name", "way"), WAYS)
@pytest.mark.parametrize("body", BODIES)
def test_every_way_trains_what_it_says_and_begins_where_the_model_was(
    name: str, way: Way, body: Body, tmp_path: Path
) -> None:
    given = pretrained(name, tmp_path)
    before = logits(given.model).detach()
    adapted = adapt(given, AdaptConfig(way=way, body=body, rank=2))
    given.model.train()
    after = logits(given.model)
    near = 1e-5 if body == "fp32" else 0.15
    assert (after - before).abs().max() < near * before.abs().max()
    loss(given.model).backward()
    for parameter in given.model.parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            assert parameter.dtype == (torch.float32 if is_norm(given, parameter) else half(body))
    trained = adapted.parameters()
    assert all(each.grad is not None for each in trained.values())
    wide = [each for each in trained.values() if each.dtype == torch.float32]
    if way == "full":
        assert adapted.trained == adapted.total
        assert len(wide) < len(trained) or body == "fp32"
        assert all(each.dtype == torch.float32 for each in norm_parameters(given.model).values())
        return
    assert len(wide) == len(trained)
    kinds = {
        "lora": {"lora_A", "lora_B"},
        "norm": set(norm_parameters(given.model)),
        "head": {"classifier.weight", "classifier.bias"},
        "norm+head": set(norm_parameters(given.model)),
    }[way]
    other = {
        key
        for key in trained
        if key not in kinds and key.rpartition(".")[2] not in kinds and not key.startswith("norm")
    }
    whole = tuple(f"{each}." for each in adapted.whole)
    assert all(key.startswith(whole) for key in other)
    assert bool(other) == (name in CLASSIFIER and way != "head")


def half(body: Body) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[body]


def is_norm(given: Any, parameter: torch.Tensor) -> bool:
    return any(each is parameter for each in norm_parameters(given.model).values())


@pytest.mark.parametrize("name", EVERY)
def test_norms_are_found_and_most_become_ours(name: str, tmp_path: Path) -> None:
    model = adapt(pretrained(name, tmp_path), AdaptConfig(way="full")).pretrained.model
    found = norms(model)
    count = {"qwen3": 9, "gemma3": 13, "modernbert": 6}.get(name, 5)
    assert len(found) == count
    ours = [each for each in found.values() if isinstance(each, LayerNorm | RMSNorm)]
    assert len(ours) == (0 if name == "gemma3" else count)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3"])
def test_gradients_of_float32_gains_over_a_bfloat16_body(name: str, tmp_path: Path) -> None:
    """They are those of the same bfloat16 weights in float64, up to the rounding of activations."""
    given = pretrained(name, tmp_path)
    gains = adapt(given, AdaptConfig(way="norm", body="bf16")).parameters()
    loss(given.model).backward()
    rounded = torch.cat([each.grad.flatten().double() for each in gains.values()])
    given.model.zero_grad()
    given.model.double()
    loss(given.model).backward()
    exact = torch.cat([each.grad.flatten() for each in gains.values()])
    assert (rounded - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_rate_that_bfloat16_swallows_moves_float32_gains(name: str, tmp_path: Path) -> None:
    given = pretrained(name, tmp_path)
    adapted = adapt(given, AdaptConfig(way="norm", body="bf16"))
    optimizer = make_optimizer(
        given.model,
        config := OptimizerConfig(learning_rate=1e-5, weight_decay=0.0),
        torch.device("cpu"),
        groups(adapted, config),
    )
    before = {name: each.detach().clone() for name, each in adapted.parameters().items()}
    loss(given.model).backward()
    moved = {name: each.grad != 0 for name, each in adapted.parameters().items()}
    optimizer.step()
    for name, each in adapted.parameters().items():
        assert torch.equal(each != before[name], moved[name])
        halves = before[name].bfloat16()
        lost = (halves - 1e-5 * moved[name]).bfloat16() == halves
        assert lost[before[name].abs() > 0.01].all()


def test_bfloat16_matrices_are_rounded_at_random(tmp_path: Path) -> None:
    given = pretrained("llama", tmp_path)
    adapted = adapt(given, AdaptConfig(way="full", body="bf16"))
    config = OptimizerConfig(name="ticks_sign", learning_rate=1e-5, weight_decay=0.1, clip=0.0)
    found = groups(adapted, config)
    assert [len(group["params"]) for group in found] == [15, 5]
    assert [group.get("stochastic_rounding", False) for group in found] == [True, False]
    assert [group["weight_decay"] for group in found] == [0.1, 0.0]
    optimizer = make_optimizer(given.model, config, torch.device("cpu"), found)
    weight = given.model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    torch.manual_seed(0)
    for _ in range(20):
        loss(given.model).backward()
        optimizer.step()
        optimizer.zero_grad()
    # each step is some hundredths of the distance to the next number: some elements have moved
    assert 0.01 < (weight != before).float().mean() < 0.9
    with pytest.raises(ConfigError, match="round at random"):
        groups(adapted, OptimizerConfig(name="adamw"))


@pytest.mark.parametrize(
    ("name", "way", "message"),
    [
        ("llama", "head", "head is for classification"),
        ("llama", "norm+head", "is for classification"),
        ("bert", "norm", "a head that is new must be trained too; got norm alone; try: norm.head"),
    ],
)
def test_a_way_that_does_not_fit_is_refused(
    name: str, way: Way, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt(pretrained(name, tmp_path), AdaptConfig(way=way))


def test_processes_that_would_round_differently_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pretrained("llama", tmp_path)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"one process: .*; got 2 processes; try: a body of fp32"):
        adapt(given, AdaptConfig(way="full", body="bf16"))
    adapt(given, AdaptConfig(way="lora", body="bf16"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"way": "qlora"}, "way must be one of full, lora, norm, head, norm.head; got 'qlora'"),
        ({"body": "fp16"}, "body must be one of fp32, bf16; got 'fp16'"),
        ({"rank": 0}, "rank must be at least 1; got 0"),
        ({"rank": 2.0}, "rank must be at least 1; got 2.0"),
        ({"alpha": 0}, "alpha must be above 0 and finite; got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1; got 1.0"),
        ({"l2": 0.0}, "l2 must be above 0 and finite"),
    ],
)
def test_values_that_cannot_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdaptConfig(**values)


def test_a_trained_head_may_stay_where_norms_train(tmp_path: Path) -> None:
    given = pretrained("bert", tmp_path)
    known = type(given)(given.model, given.tokenizer, given.source, given.kind, given.context)
    adapted = adapt(known, AdaptConfig(way="norm"))
    assert set(adapted.parameters()) == set(norm_parameters(given.model))
    disturb(adapted.parameters().values())
