"""Small pretrained models to adapt, and what is done with them in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from metronorm.finetune.pretrained import Pretrained, load
from tests.finetune.pretrained_files import tokenizer
from tests.finetune.tiny import CLASSIFIER, build

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

LABELS = ("sport", "<b>|trade|</b>", "art")


def pretrained(name: str, directory: Path) -> Pretrained:
    """A model as `load` gives it; a classifier is an encoder with a new head."""
    base = directory / name
    model = build(name).eval()
    if name in CLASSIFIER:
        model = model.base_model
    model.save_pretrained(base)
    tokenizer().save_pretrained(base)
    torch.manual_seed(1)
    if name in CLASSIFIER:
        return load(base, "classifier", labels=LABELS)
    return load(base, "causal")


def rows(count: int = 3, length: int = 9) -> list[list[int]]:
    """Token ids of some texts."""
    chance = torch.Generator().manual_seed(2)
    return torch.randint(3, 60, (count, length), generator=chance).tolist()


def logits(model: Any) -> Tensor:
    """Of these texts, by the model's own forward."""
    given = torch.tensor(rows())
    found: Tensor = model(input_ids=given, attention_mask=torch.ones_like(given)).logits
    return found


def loss(model: Any) -> Tensor:
    """Something to differentiate."""
    found = logits(model)
    weights = torch.arange(found.shape[-1], dtype=found.dtype).sin()
    return (found.log_softmax(-1) * weights).float().sum() / found.numel()


def disturb(parameters: Iterable[Tensor], scale: float = 0.1) -> None:
    """Move what is trained, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for each in parameters:
            each.add_(torch.randn_like(each) * scale)
