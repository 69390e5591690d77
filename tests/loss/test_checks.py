"""Each mistake in the arguments is one ConfigError, before anything is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metronorm.errors import ConfigError
from metronorm.loss import linear_cross_entropy

GOOD: dict[str, Any] = {
    "features": torch.zeros(2, 3, 4),
    "weight": torch.zeros(5, 4),
    "targets": torch.zeros(2, 3, dtype=torch.int64),
}

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"features": [[1.0]]}, "features must be a tensor; got list"),
    ({"features": torch.zeros(2, 3, 4).to_sparse()}, "features must be dense; got torch.sparse"),
    ({"features": torch.zeros(2, 3, 4, dtype=torch.int64)}, "features must be float32, bfloat16"),
    ({"features": torch.zeros(2, 3, 5)}, r"as wide as the weight; got shape \(2, 3, 5\); try: wei"),
    ({"features": torch.zeros(2, 3, 6)}, r"as wide as the weight; got shape \(2, 3, 6\)$"),
    ({"features": torch.zeros(())}, "features must be"),
    ({"weight": torch.zeros(4)}, r"weight must be \(vocabulary, width\).*got shape \(4,\)"),
    ({"weight": torch.zeros(0, 4)}, "at least one row"),
    ({"weight": torch.zeros(5, 4, dtype=torch.complex64)}, "weight must be float32.*complex64"),
    ({"targets": torch.zeros(6, dtype=torch.int64)}, r"width, \(2, 3\); got shape \(6,\)"),
    (
        {"targets": torch.zeros(2, 3)},
        r"targets must be integers; got torch.float32; try: targets.l",
    ),
    ({"targets": torch.zeros(2, 3, dtype=torch.bool)}, "targets must be integers; got torch.bool"),
    ({"targets": torch.full((2, 3), 5)}, "from 0 to 4, or -100.*; got 5; try: the tokenizer"),
    ({"targets": torch.full((2, 3), -1)}, "from 0 to 4, or -100.*; got -1"),
    ({"targets": torch.zeros(2, 3, dtype=torch.int64, device="meta")}, "on the device of the feat"),
    ({"bias": torch.zeros(4)}, r"bias must be \(5,\); got shape \(4,\)"),
    ({"bias": 1.0}, "bias must be a tensor; got float"),
    ({"weights": torch.zeros(2)}, r"one for each target, \(2, 3\); got shape \(2,\)"),
    ({"weights": torch.zeros(2, 3, dtype=torch.complex64)}, "weights must be real"),
    ({"weights": torch.ones(2, 3, requires_grad=True)}, "constants.*try: weights.detach"),
    ({"soft_cap": 0}, "soft_cap must be finite and above 0, or None; got 0"),
    ({"soft_cap": float("inf")}, "soft_cap must be finite"),
    ({"soft_cap": True}, "soft_cap must be finite"),
    ({"label_smoothing": 1.5}, "label_smoothing must be from 0 to 1; got 1.5"),
    ({"label_smoothing": float("nan")}, "label_smoothing must be"),
    ({"label_smoothing": "a"}, "label_smoothing must be from 0 to 1; got 'a'"),
    ({"z_loss": -1}, "z_loss must be finite and at least 0; got -1"),
    ({"z_loss": None}, "z_loss must be finite"),
    ({"scale": float("nan")}, "scale must be a finite number; got nan"),
    ({"scale": torch.ones(2)}, "scale must be a finite number"),
    ({"chunk": 0}, "chunk must be a number of rows of at least 1, or None; got 0"),
    ({"chunk": 2.5}, "chunk must be a number of rows"),
]


@pytest.mark.parametrize(("changed", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_is_one_error(changed: dict[str, Any], message: str) -> None:
    given = {**GOOD, **changed}
    tensors = [given.pop(name) for name in ("features", "weight", "targets")]
    with pytest.raises(ConfigError, match=message):
        linear_cross_entropy(*tensors, **given)


def test_what_does_not_count_may_be_out_of_range() -> None:
    targets = torch.tensor([[0, 99, -1], [1, 2, -100]])
    weights = torch.tensor([[1, 0, 0], [1, 1, 1]])
    loss = linear_cross_entropy(GOOD["features"], GOOD["weight"], targets, weights=weights)
    torch.testing.assert_close(loss, 3 * torch.tensor(5.0).log())


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8])
def test_any_integers_are_targets(dtype: torch.dtype) -> None:
    loss = linear_cross_entropy(GOOD["features"], GOOD["weight"], GOOD["targets"].to(dtype))
    torch.testing.assert_close(loss, 6 * torch.tensor(5.0).log())
