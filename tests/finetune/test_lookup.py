"""Embeddings add their gradient row by row, to the same number as torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.finetune.lookup import add_rows_alone
from metronorm.loss import linear_cross_entropy
from metronorm.planning.live_bytes import LiveBytes
from tests.finetune.tiny import CAUSAL, build

ENTRIES, WIDTH = 1000, 8


class Tied(nn.Module):
    """An embedding that is the head too."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ENTRIES, WIDTH, padding_idx=padding, dtype=torch.float64)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.table(ids).tanh()
        return linear_cross_entropy(hidden[0, :-1], self.table.weight, ids[0, 1:])


def pair(padding: int | None = None) -> tuple[Tied, Tied]:
    plain = Tied(padding)
    ours = copy.deepcopy(plain)
    add_rows_alone(ours)
    return plain, ours


IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])


@pytest.mark.parametrize("padding", [None, 1])
def test_the_sum_over_beats_is_that_of_torch(padding: int | None) -> None:
    plain, ours = pair(padding)
    for ids in (IDS, IDS.flip(1), IDS):
        assert torch.equal(plain(ids), ours(ids))
        plain(ids).backward()
        ours(ids).backward()
    torch.testing.assert_close(ours.table.weight.grad, plain.table.weight.grad)


def test_no_gradient_of_the_tables_size_is_made() -> None:
    plain, ours = pair()

    def most(model: Tied) -> int:
        model(IDS).backward()
        with LiveBytes() as live:
            model.table(IDS).square().sum().backward()
        return live.peak

    table = ENTRIES * WIDTH * 8
    assert most(plain) >= table
    assert most(ours) < table / 4


def test_grad_of_the_table_is_returned_where_it_is_asked_for() -> None:
    plain, ours = pair()
    found = [torch.autograd.grad(each(IDS), each.table.weight)[0] for each in (plain, ours)]
    torch.testing.assert_close(*found)
    assert ours.table.weight.grad is None


def test_a_frozen_table_gets_none() -> None:
    _, ours = pair()
    ours.table.weight.requires_grad_(False)
    assert not ours.table(IDS).requires_grad


def test_a_half_precision_table_has_a_float32_sum() -> None:
    _, ours = pair()
    ours.bfloat16()
    weight = ours.table.weight
    weight.grad_dtype = torch.float32
    expected = torch.zeros(ENTRIES, WIDTH)
    for _ in range(3):
        rows = ours.table(IDS)
        slope = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        rows.backward(slope)
        expected.index_add_(0, IDS[0], slope[0].float())
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("name", CAUSAL)
def test_models_of_transformers(name: str) -> None:
    model: Any = build(name, exact=True)
    plain = copy.deepcopy(model)
    add_rows_alone(model)
    for each in (model, plain):
        each(input_ids=IDS).logits.square().sum().backward()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
