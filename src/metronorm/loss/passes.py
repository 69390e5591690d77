"""The passes over the rows that count: forward in chunks of rows, backward in parts of the weight.

| | forward | backward |
| --- | --- | --- |
| computed | the loss, the gradients of features and bias | the gradient of the weight |
| a part has | some rows and all of the vocabulary | all rows and some of the vocabulary |
| because | a softmax is over whole rows | each element of `.grad` is read and written once |

A part has at most `chunk` x vocabulary logits in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.loss.head import pieces

if TYPE_CHECKING:
    from torch import Tensor

    from metronorm.loss.head import Head
    from metronorm.loss.rows import Rows


class Wanted(NamedTuple):
    """Whose gradients are wanted."""

    features: bool = False
    weight: bool = False
    bias: bool = False


class Found(NamedTuple):
    """What a forward pass has computed. The gradients are those of the loss itself."""

    loss: Tensor  # ()
    logsumexp: Tensor  # (rows,), of the logits
    features: Tensor | None  # (rows, width), their gradient
    bias: Tensor | None  # (vocabulary,), its gradient
    kept: Tensor | None  # (rows, vocabulary), from `Head.gradient`, if one chunk has all rows


def forward(head: Head, rows: Rows, wanted: Wanted) -> Found:
    """The summed loss, and the gradients that need no second pass.

    Args:
        head: with its options.
        rows: that count.
        wanted: whose gradients; if none, only the loss is computed.
    """
    x, chunk, entries = rows.features, head.options.chunk, head.entries
    count, keeps = len(x), wanted.weight and len(x) <= chunk
    losses, logsumexp = x.new_empty(count), x.new_empty(count)
    of_features = torch.empty_like(x) if wanted.features else None
    of_bias = x.new_zeros(entries.stop) if wanted.bias else None
    buffer = x.new_empty(min(count, chunk), entries.stop)
    for chosen in pieces(count, chunk):
        part = rows.part(chosen)
        values = buffer[: len(part.features)]
        slope = head.logits(part, entries, values)
        losses[chosen], logsumexp[chosen] = head.losses(values, part)
        if not (wanted.features or wanted.bias or keeps):
            continue
        gradient = head.gradient(values, slope, part, logsumexp[chosen], entries)
        factors = part.weights * head.options.scale
        if of_features is not None:
            head.back_to_features(gradient, of_features[chosen])
            of_features[chosen] *= factors.unsqueeze(1)
        if of_bias is not None:
            of_bias.addmv_(gradient.T, factors)
    loss = torch.dot(losses, rows.weights)
    return Found(loss, logsumexp, of_features, of_bias, buffer if keeps else None)


def add_weight_gradient(
    head: Head,
    rows: Rows,
    slope: Tensor,
    logsumexp: Tensor,
    kept: Tensor | None,
    *,
    total: Tensor,
    is_new: bool,
) -> None:
    """Add the gradient of the weight to a tensor of its shape.

    Args:
        head: of the forward pass.
        rows: of the forward pass.
        slope: the gradient with respect to the loss, ().
        logsumexp: from the forward pass.
        kept: from the forward pass.
        total: (vocabulary, width) of the dtype of the options.
        is_new: whether the total is not initialized, and is to be overwritten.
    """
    weighted = rows.features * (rows.weights * slope).unsqueeze(1)
    count, entries = len(weighted), head.entries.stop
    if kept is not None:
        head.multiply(kept.T, weighted, out=total, add=not is_new)
        return
    size = max(1, head.options.chunk * entries // count)
    buffer = weighted.new_empty(count * min(size, entries))
    for chosen in pieces(entries, size):
        values = buffer[: count * (chosen.stop - chosen.start)].view(count, -1)
        cap_slope = head.logits(rows, chosen, values)
        values.sub_(logsumexp.unsqueeze(1))
        gradient = head.gradient(values, cap_slope, rows, logsumexp, chosen)
        head.multiply(gradient.T, weighted, out=total[chosen], add=not is_new)
