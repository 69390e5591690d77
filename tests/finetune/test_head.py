"""The head, solved: the optimum that training converges to, from features computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from metronorm.errors import ConfigError, DataError
from metronorm.finetune import architectures
from metronorm.finetune.adapting import adapt
from metronorm.finetune.head import choose_l2, compute_features, put_into, solve
from metronorm.finetune.ways import AdaptConfig
from tests.finetune.adapting import pretrained
from tests.finetune.tiny import padded

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def clouds(rows: int = 60, width: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Rows of classes that overlap, far from zero and of different scales."""
    torch.manual_seed(0)
    labels = torch.arange(rows) % classes
    centres = torch.randn(classes, width)
    scales = torch.logspace(-2, 1, width)
    return (centres[labels] + torch.randn(rows, width) + 7) * scales, labels


def objective(
    weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor, l2: float, share: Tensor
) -> Tensor:
    """The equation, as written."""
    share = share / share.sum()
    features = features.double()
    each = functional.cross_entropy(features @ weight.T + bias, labels, reduction="none")
    mean = (share[:, None] * features).sum(0)
    variance = (share[:, None] * (features - mean).square()).sum(0).mean()
    return (share * each).sum() + l2 / 2 * variance * weight.square().sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_no_gradient_is_left_and_training_ends_there(weighted: bool) -> None:
    features, labels = clouds()
    share = (torch.arange(60) % 4).double() if weighted else torch.ones(60).double()
    found = solve(features, labels, 3, l2=0.01, weights=share if weighted else None)
    assert found.gradient_norm < 1e-9
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    at_optimum = objective(weight, bias, features, labels, 0.01, share)
    slopes = torch.autograd.grad(at_optimum, (weight, bias))
    assert max(float(each.abs().max()) for each in slopes) < 1e-7
    # from zero, on features of one scale, by a method that knows nothing of ours
    mean, deviation = features.mean(0).double(), features.std(0).double()
    scaled = ((features - mean) / deviation).double()
    trained = [torch.zeros(3, 5).double(), torch.zeros(3).double()]
    for each in trained:
        each.requires_grad_()
    optimizer = torch.optim.LBFGS(trained, max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def step() -> Tensor:
        optimizer.zero_grad()
        own = trained[0] / deviation
        value = objective(own, trained[1] - own @ mean, features, labels, 0.01, share)
        value.backward()
        return value

    optimizer.step(step)
    assert step().item() == pytest.approx(at_optimum.item(), abs=1e-8)
    got = scaled @ trained[0].T + trained[1]
    want = features.double() @ found.weight.T + found.bias
    torch.testing.assert_close(got.log_softmax(1), want.log_softmax(1), rtol=0, atol=1e-3)


def test_gradient_descent_approaches_it_from_above() -> None:
    features, labels = clouds()
    features = (features - features.mean(0)) / features.std(0)
    found = solve(features, labels, 3, l2=0.1)
    share = torch.ones(60).double()
    best = objective(found.weight, found.bias, features, labels, 0.1, share).item()
    weight = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    values = []
    for _ in range(300):
        value = objective(weight, bias, features, labels, 0.1, share)
        values.append(value.item())
        for each, slope in zip(
            (weight, bias), torch.autograd.grad(value, (weight, bias)), strict=True
        ):
            each.data -= 0.5 * slope
    assert all(value >= best - 1e-12 for value in values)
    assert values[-1] - best < 1e-8
    torch.testing.assert_close(weight.detach(), found.weight, rtol=0, atol=1e-3)


def test_the_scale_of_features_changes_no_prediction() -> None:
    features, labels = clouds()
    one, other = (solve(each, labels, 3, l2=0.03) for each in (features, features * 1000))
    logits = features.double() @ one.weight.T + one.bias
    scaled = features.double() * 1000 @ other.weight.T + other.bias
    torch.testing.assert_close(logits, scaled, rtol=0, atol=1e-6)


def test_separable_classes_and_a_constant_feature() -> None:
    labels = torch.arange(20) % 2
    features = torch.stack([labels * 2.0 - 1, torch.ones(20)], 1)
    found = solve(features, labels, 2, l2=1e-6)
    assert found.gradient_norm < 1e-9
    assert found.weight.isfinite().all()
    assert found.weight[:, 1].abs().max() < 1e-9
    same = solve(torch.ones(20, 3), labels, 2, l2=0.1)  # nothing to learn from
    assert same.weight.abs().max() < 1e-9
    assert same.loss == pytest.approx(0.6931, abs=1e-4)


def test_the_chosen_penalty_is_best_on_rows_that_were_left_out() -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    noise = torch.randn(40, 200)
    assert choose_l2(noise, labels, 2, tried=(1e-4, 1e2)) == 1e2
    clear = noise[:, :3] * 0.1 + labels[:, None]
    assert choose_l2(clear, labels, 2, tried=(1e-4, 1e2)) == 1e-4


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_features_once_and_a_head_that_the_model_has(name: str, tmp_path: Path) -> None:
    given = pretrained(name, tmp_path)
    adapt(given, AdaptConfig(way="head"))
    given.model.train()
    batches = [padded(4, seed) for seed in range(8)]
    features = compute_features(given.model, batches)
    assert given.model.training
    assert features.dtype == torch.float32
    assert len(features) == 32
    labels = torch.cat([torch.as_tensor(batch["labels"]) for batch in batches])
    found = solve(features, labels, 3, l2=0.01)
    put_into(given.model, found)
    given.model.eval()
    logits = torch.cat(
        [
            given.model(
                input_ids=torch.as_tensor(batch["ids"]),
                attention_mask=torch.as_tensor(batch["mask"]),
            ).logits
            for batch in batches
        ]
    )
    loss = functional.cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(found.loss, abs=1e-5)
    assert loss < 1.0  # chance is 1.0986
    loss_slope = torch.autograd.grad(loss, architectures.head(given.model).bias)[0]
    assert loss_slope.abs().max() < 1e-5  # the bias has no penalty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": 0.0}, "l2 must be above 0"),
        ({"classes": 1}, "at least two classes"),
        ({"classes": 2}, "labels must be from 0 to 1; got 0 to 2"),
        ({"weights": torch.zeros(60)}, "weights of rows"),
        ({"features": torch.full((60, 5), torch.nan)}, "features must be finite"),
        ({"features": torch.zeros(0, 5), "labels": torch.zeros(0)}, "rows to learn from"),
    ],
)
def test_what_has_no_optimum_is_refused(change: dict[str, object], message: str) -> None:
    features, labels = clouds()
    given = {"features": features, "labels": labels, "classes": 3, "l2": 0.1} | change
    with pytest.raises((ConfigError, DataError), match=message):
        solve(**given)  # type: ignore[arg-type]
