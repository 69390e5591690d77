"""Gated blocks keep two wide tensors instead of four, and compute what they did."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from metronorm.finetune.gated_mlp import GatedMLP, keep_no_products
from metronorm.finetune.lora import add_lora
from metronorm.planning.live_bytes import LiveBytes
from tests.finetune.tiny import CAUSAL, build, twin

WIDTH, HIDDEN, ROWS = 8, 24, 10


class PlainMLP(nn.Module):
    """As in the models of transformers."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.act_fn = act

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return down


def both(act: Any) -> tuple[PlainMLP, GatedMLP]:
    torch.manual_seed(0)
    plain = PlainMLP(act).double()
    return plain, GatedMLP(copy.deepcopy(plain))


def passed(model: nn.Module, x: Tensor, call: Any = None) -> list[Tensor]:
    """The output and all gradients."""
    x = x.clone().requires_grad_()
    y = (call or model)(x)
    y.square().sum().backward()
    return [y, x.grad, *(each.grad for each in model.parameters() if each.requires_grad)]  # type: ignore[list-item]


@pytest.mark.parametrize("act", [nn.SiLU(), nn.GELU(approximate="tanh"), nn.Identity()])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_numbers_are_those_of_the_plain_block(act: Any, lora: bool, checkpointing: bool) -> None:
    plain, ours = both(act)
    if lora:
        for model in (plain, ours):
            model.requires_grad_(False)
            torch.manual_seed(1)
            add_lora(model, rank=3, alpha=2)
            for name, each in model.named_parameters():
                if name.endswith("lora_B"):
                    nn.init.normal_(each)
    call = (lambda x: checkpoint(ours, x, use_reentrant=False)) if checkpointing else None
    x = torch.randn(2, ROWS // 2, WIDTH, dtype=torch.float64)
    pairs = list(zip(passed(plain, x), passed(ours, x, call), strict=True))
    assert len(pairs) == (8 if lora else 5)
    for theirs, mine in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13)


def kept(model: nn.Module, call: Any = None) -> int:
    """Bytes that a graph of one pass keeps."""
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    with LiveBytes() as live:
        y = (call or model)(x)
        del x
        return live.now - y.nbytes


def test_two_of_four_wide_tensors_are_kept() -> None:
    plain, ours = both(nn.SiLU())
    wide = ROWS * HIDDEN * 8
    assert kept(plain) == 4 * wide
    assert kept(ours) == 2 * wide


def test_under_activation_checkpointing_nothing_is_kept() -> None:
    _, ours = both(nn.SiLU())
    assert kept(ours, lambda x: checkpoint(ours, x, use_reentrant=False)) == 0


def test_a_block_that_does_not_train_computes_the_same() -> None:
    plain, ours = both(nn.SiLU())
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(plain(x), ours(x))
    ours.requires_grad_(False)
    assert not ours(x).requires_grad


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_models_of_transformers_have_such_blocks(name: str) -> None:
    model = build(name, exact=True)
    plain = twin(model)
    names = [name for name, _ in model.named_parameters()]
    keep_no_products(model)
    assert [name for name, _ in model.named_parameters()] == names
    blocks = [each for each in model.modules() if isinstance(each, GatedMLP)]
    assert len(blocks) == model.config.num_hidden_layers
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    slopes = []
    for each in (model, plain):
        logits = each(input_ids=ids).logits[0]
        functional.cross_entropy(logits[:-1], ids[0, 1:]).backward()
        slopes.append([parameter.grad for parameter in each.parameters()])
    for mine, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_other_blocks_stay() -> None:
    for name in sorted(CAUSAL.keys() - {"llama", "qwen3", "gemma3"}):
        model = build(name)
        keep_no_products(model)
        assert not any(isinstance(each, GatedMLP) for each in model.modules())
