"""Sparse gradients of embeddings: refused by every optimizer, and nothing is changed by that.

Where `.grad` is a dense tensor already, as a sum is that stays there between ticks, torch adds a
sparse gradient to it in place: then there is nothing to refuse, and the update is that of the dense
gradient.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from tests.optim.replay import refused

ROSTER: dict[str, tuple[Any, dict[str, Any]]] = {
    "Ticks": (Ticks, {"lr": 0.1}),
    "Ticks, separate": (Ticks, {"lr": 0.1, "carry": "separate"}),
    "TicksSign": (TicksSign, {"lr": 0.1}),
    "TicksSign, separate": (TicksSign, {"lr": 0.1, "carry": "separate"}),
    "TicksMuon, muon": (TicksMuon, {"lr": 0.1, "method": "muon"}),
    "TicksMuon, adamw": (TicksMuon, {"lr": 0.1, "method": "adamw"}),
    "TicksMuon, ticks": (TicksMuon, {"lr": 0.1, "method": "ticks"}),
    "TicksAdam": (TicksAdam, {"lr": 0.1}),
}
EACH = pytest.mark.parametrize("name", ROSTER)
# TicksAdam looks at the gradient itself; the others take `.grad` away at each tick
WITHOUT_SUM_IN_GRAD = {"Ticks, separate", "TicksSign, separate", "TicksMuon, adamw", "TicksAdam"}
LAYERS = {"Embedding": nn.Embedding, "EmbeddingBag": nn.EmbeddingBag}


def make(name: str, params: Any) -> Any:
    kind, options = ROSTER[name]
    return kind(params, **options)


def embedding(kind: Any, *, sparse: bool) -> nn.Module:
    torch.manual_seed(0)
    layer: nn.Module = kind(6, 4, sparse=sparse, dtype=torch.float64)
    return layer


def loss(layer: nn.Module, beat: int) -> Tensor:
    rows = torch.tensor([[beat % 6, 1, 1], [5, beat % 3, 2]])  # one row comes twice
    seen: Tensor = layer(rows)
    return (seen.square() * torch.arange(1, 1 + seen.shape[-1])).sum()


@EACH
@pytest.mark.parametrize("layer", LAYERS)
def test_they_are_refused_and_dense_ones_taken_after_that(name: str, layer: str) -> None:
    model, other = embedding(LAYERS[layer], sparse=True), embedding(nn.Embedding, sparse=False)
    optimizer = make(name, [*other.parameters(), *model.parameters()])
    before = [each.detach().clone() for each in (model.weight, other.weight)]

    def tick() -> None:
        (loss(model, 0) + loss(other, 0)).backward()
        optimizer.step()

    expected = "gradients must be dense", "torch.sparse_coo", "shape (6, 4)", "sparse=False"
    refused(ConfigError, tick, *expected)
    assert torch.equal(model.weight, before[0])
    assert torch.equal(other.weight, before[1])
    model.sparse = False  # type: ignore[assignment]
    optimizer.zero_grad()
    for beat in range(3):
        (loss(model, beat) + loss(other, beat)).backward()
        optimizer.step()
    assert not torch.equal(model.weight, before[0])


@EACH
def test_into_a_dense_gradient_they_are_added_exactly(name: str) -> None:
    """Two beats a tick, three ticks, beside the same training with dense gradients."""
    models = [embedding(nn.Embedding, sparse=sparse) for sparse in (True, False)]
    models[0].weight.grad = torch.zeros_like(models[0].weight)
    optimizers = [make(name, model.parameters()) for model in models]

    def train(which: int) -> None:
        for tick in range(3):
            for beat in range(2):
                loss(models[which], 2 * tick + beat).backward()
            optimizers[which].step()

    if name in WITHOUT_SUM_IN_GRAD:
        with pytest.raises(ConfigError, match="gradients must be dense"):
            train(0)
        return
    train(0)
    train(1)
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-12, atol=1e-12)
