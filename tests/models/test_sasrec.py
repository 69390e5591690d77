"""The recommender beside a forward pass of its own, in float64, in numpy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metronorm.errors import ConfigError
from metronorm.models.sasrec import SASRec
from metronorm.norm import LayerNorm

Array = NDArray[np.float64]
erf = np.vectorize(math.erf)


def make(norm: Any = "layer", heads: int = 2) -> SASRec:
    """A model of float64, of which no weight has the value that it begins with."""
    torch.manual_seed(0)
    model = SASRec(11, width=6, blocks=2, heads=heads, length=7, norm=norm).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def by_hand(model: SASRec, chosen: NDArray[np.int64], heads: int, norm: str) -> Array:
    """Scores, (time, items), of one sequence, (time,): the equations, place after place."""
    w = {name: value.numpy() for name, value in model.state_dict().items()}

    def normed(x: Array, name: str) -> Array:
        if norm == "none":
            return x
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["items.weight"][chosen] + w["positions.weight"][: len(chosen)]
    width = x.shape[1]
    size = width // heads
    for block in range(2):
        name = f"blocks.{block}"
        queries, keys, values = np.split(
            linear(normed(x, f"{name}.attention_norm"), f"{name}.attention.qkv"), 3, axis=1
        )
        mixed = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for place in range(len(x)):
                scores = keys[: place + 1, part] @ queries[place, part] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                mixed[place, part] = weights / weights.sum() @ values[: place + 1, part]
        x = x + linear(mixed, f"{name}.attention.out")
        hidden = linear(normed(x, f"{name}.forward_norm"), f"{name}.feed_forward.up")
        x = x + linear(hidden * (1 + erf(hidden / math.sqrt(2))) / 2, f"{name}.feed_forward.out")
    return normed(x, "norm") @ w["items.weight"].T


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("heads", [1, 2])
def test_scores_and_loss_are_those_of_the_equations(norm: Any, heads: int) -> None:
    model = make(norm, heads)
    chosen = torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(1))
    want = np.stack([by_hand(model, row.numpy(), heads, norm) for row in chosen])
    np.testing.assert_allclose(model(chosen).detach(), want, rtol=1e-11, atol=1e-11)
    targets = chosen.roll(-1, 1)
    targets[0, 3:] = -100
    counted = (targets >= 0).numpy()
    of_target = np.take_along_axis(want, targets.clamp(min=0).numpy()[..., None], 2)[..., 0]
    losses = np.log(np.exp(want).sum(2)) - of_target
    loss = model(chosen, targets)
    assert loss.item() == pytest.approx(losses[counted].sum(), rel=1e-11)


def test_nothing_sees_what_comes_later() -> None:
    model = make()
    chosen = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 0]])
    one, other = model(chosen)
    assert torch.equal(one[:3], other[:3])
    assert not torch.allclose(one[3:], other[3:])
    assert torch.allclose(model(chosen[:1, :3])[0], one[:3], rtol=1e-12)


def test_the_norms_are_ours_and_can_be_left_out() -> None:
    def norms(model: SASRec) -> int:
        return sum(isinstance(module, LayerNorm) for module in model.modules())

    assert [norms(SASRec(9, blocks=blocks)) for blocks in (1, 2)] == [3, 5]
    assert norms(SASRec(9, norm="none")) == 0


def test_dropout_is_for_training_alone() -> None:
    model = SASRec(50, dropout=0.5)
    chosen = torch.arange(10)[None]
    assert not torch.equal(model(chosen), model(chosen))
    model.eval()
    assert torch.equal(model(chosen), model(chosen))


def test_it_begins_with_a_guess() -> None:
    torch.manual_seed(0)
    model = SASRec(1000)
    chosen = torch.randint(1000, (4, 101))
    loss = model(chosen[:, :-1], chosen[:, 1:]).item() / 400
    assert loss == pytest.approx(math.log(1000), abs=0.05)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SASRec(0), r"sizes must be at least 1; got items=0"),
        (lambda: SASRec(5, length=0, blocks=-1), r"got blocks=-1, length=0"),
        (lambda: SASRec(5, width=6, heads=4), r"heads must divide the width; got 4 heads, width 6"),
        (
            lambda: SASRec(5, length=3)(torch.zeros(1, 4, dtype=torch.int64)),
            r"the model's length of 3 items; got 4 items",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_error(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
