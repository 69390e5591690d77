"""What a run keeps of its base model: the proof that it is the same.

The checkpoints of a run hold what trains. What is frozen is read from the base model's files again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from metronorm.checkpoints.fingerprint import fingerprint
from metronorm.errors import DataError

if TYPE_CHECKING:
    from metronorm.finetune.adapting import Adapted


def frozen_id(adapted: Adapted) -> str:
    """A fingerprint of all that does not train: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, each in adapted.pretrained.model.named_parameters():
        if not each.requires_grad:
            values = fingerprint(each.detach().cpu())
            digest.update(repr((name, str(each.dtype), tuple(each.shape), values)).encode())
    return digest.hexdigest()


def check_frozen(expected: str, found: str, model: str) -> None:
    """Raise DataError if the base model is another than the run began with."""
    if found != expected:
        raise DataError(
            "a run goes on with the base model that it began with",
            got=f"other weights in {model}",
            fix="name with MODEL where the base model is now",
        )
