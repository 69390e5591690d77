"""What each row adds to the figures of a model, batch by batch.

Logits are never kept for more than a few hundred positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metronorm.finetune.architectures import features, head
from metronorm.finetune.tuned import class_logits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from metronorm.finetune.adapting import Adapted

_CHUNK = 256  # positions whose logits exist at once


@torch.no_grad()
def row_sums(adapted: Adapted, batches: Iterable[Mapping[str, Any]]) -> NDArray[np.float64]:
    """What each row adds to the figures.

    Args:
        adapted: the model, in evaluation mode.
        batches: of rows in order, as the training has them.

    Returns:
        (rows, 3): of texts to write, loss, tokens that count and how many of them are the most
        probable; of texts to classify, loss, label and the most probable label.
    """
    rows = _written if adapted.pretrained.kind == "causal" else _classified
    return np.concatenate([rows(adapted, batch) for batch in batches])


def _written(adapted: Adapted, batch: Mapping[str, Any]) -> NDArray[np.float64]:
    model = adapted.pretrained.model
    hidden, top = features(model, batch), head(model)
    targets = torch.as_tensor(batch["targets"]).to(hidden.device)
    counts = torch.as_tensor(batch["weights"]).to(hidden.device) >= 1
    sums = torch.zeros(len(targets), 3, dtype=torch.float64)
    where = counts.nonzero().flatten()
    for part in where.split(_CHUNK):
        logits = torch.nn.functional.linear(hidden[part], top.weight.to(hidden.dtype), top.bias)
        logits = logits.float() * top.scale
        if top.soft_cap is not None:
            logits = top.soft_cap * (logits / top.soft_cap).tanh()
        right = logits.gather(1, targets[part, None]).squeeze(1)
        sums[part, 0] = (logits.logsumexp(1) - right).double().cpu()
        sums[part, 1] = 1.0
        sums[part, 2] = (logits.argmax(1) == targets[part]).double().cpu()
    ends = np.cumsum(np.asarray(batch["lengths"]))
    return np.add.reduceat(sums.numpy(), ends - np.asarray(batch["lengths"]), axis=0)


def _classified(adapted: Adapted, batch: Mapping[str, Any]) -> NDArray[np.float64]:
    logits, labels = class_logits(adapted.pretrained.model, batch)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return torch.stack([losses, labels, logits.argmax(1)], 1).double().cpu().numpy()
