"""Causal attention inside each document of a packed batch; none across documents, none for padding.

transformers finds a model's attention function by a name. `use_packed_attention` sets ours, which
does what transformers' own "sdpa" does unless the attention mask is that of `packed_mask`: the
documents' lengths instead of a (positions, positions) table. So generation and evaluation go on as
before, and the cost of a packed batch is the sum of the costs of its documents.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

from metronorm.finetune._torch_private import softmax_slope
from metronorm.finetune.library import library
from metronorm.loss.products import STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

NAME = "metronorm_packed"
_BLOCK = 128  # queries; with more of them less is left out, with fewer products are small


def use_packed_attention(model: Any) -> None:
    """Let a transformers model understand the masks of `packed_mask`; nothing else changes."""
    if model.config._attn_implementation == NAME:
        return
    transformers = library()
    transformers.AttentionInterface.register(NAME, _attention)
    masks = transformers.AttentionMaskInterface
    masks.register(NAME, masks()["sdpa"])
    model.set_attn_implementation(NAME)


def packed_mask(lengths: Tensor) -> Tensor:
    """The attention mask of a packed batch: int64 (1, 1, 1, documents), on the CPU.

    transformers hands a mask of four dimensions to the attention function as it is. An integer mask
    is none that any other function takes, so it cannot be mistaken.

    Args:
        lengths: positions of each document, integers (documents,).
    """
    return lengths.to("cpu", torch.int64).view(1, 1, 1, -1)


def _attention(
    module: nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the attention layer.
        queries: (batch, heads, positions, head size); batch is 1 if packed.
        keys: (batch, key heads, positions, head size).
        values: as keys.
        mask: of `packed_mask`, or of transformers.
        scaling: factor of the scores; None: 1 / sqrt(head size).
        dropout: probability that an attention weight is dropped.
        sliding_window: positions that a query sees, its own included; None: all before it.
        others: what only "sdpa" needs.

    Returns:
        (batch, positions, heads, head size), and None for the weights.
    """
    if mask is None or mask.dtype != torch.int64:
        plain = library().AttentionInterface()["sdpa"]
        given = {**others, "scaling": scaling, "dropout": dropout}
        mixed: Tensor = plain(module, queries, keys, values, mask, **given)[0]
        return mixed, None
    kind = queries.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        queries, keys, values = queries.to(dtype), keys.to(dtype), values.to(dtype)
    scale = queries.shape[-1] ** -0.5 if scaling is None else scaling
    parts = [
        _causal(each, scale, dropout, sliding_window).transpose(1, 2).flatten(0, 1)
        for each in _by_document(mask.flatten().tolist(), queries, keys, values)
    ]
    return torch.cat(parts).unsqueeze(0), None


class Documents(NamedTuple):
    """Queries, keys and values of documents of equal length.

    Queries are (documents, heads, length, head size), keys and values have the key heads.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor


def _by_document(lengths: list[int], *packed: Tensor) -> Iterator[Documents]:
    """Views of one document after the other; neighbours of equal length come together."""
    runs = [(length, sum(1 for _ in same)) for length, same in itertools.groupby(lengths)]
    # One split: the gradient of a slice would be as large as the whole, for each document.
    sizes = [length * count for length, count in runs]
    splits = [all_.split(sizes, dim=2) for all_ in packed]
    for number, (length, count) in enumerate(runs):
        # (1, heads, count * length, size) to (count, heads, length, size)
        parts = (split[number][0].unflatten(1, (count, length)) for split in splits)
        yield Documents(*(part.transpose(0, 1) for part in parts))


def _causal(qkv: Documents, scale: float, dropout: float, window: int | None) -> Tensor:
    """Causal attention over whole documents: (documents, heads, length, head size)."""
    queries = qkv.queries
    length = queries.shape[2]
    visible = None
    if window is not None and window < length:
        visible = torch.ones(length, length, dtype=torch.bool, device=queries.device)
        visible = visible.tril_().triu_(1 - window)
    elif (
        queries.dtype == torch.bfloat16
        and queries.device.type == "cpu"
        and queries.requires_grad
        and not dropout
    ):
        return _with_fast_backward(*qkv, scale)
    return _attend(qkv, scale, visible, dropout)


def _attend(
    qkv: Documents, scale: float, visible: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    return F.scaled_dot_product_attention(
        *qkv,
        attn_mask=visible,
        dropout_p=dropout,
        is_causal=visible is None,
        scale=scale,
        enable_gqa=qkv.queries.shape[1] != qkv.keys.shape[1],
    )


class _FastBackward(torch.autograd.Function):
    """Attention whose backward pass is made of matrix products, a block of queries at a time.

    Blocks leave out what comes after their queries, which is almost half of the weights of a long
    document. Like torch's, this pass keeps no weights; it computes them again.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(queries, keys, values)
        ctx.scale = scale
        return _attend(Documents(queries, keys, values), scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return *_slopes(Documents(*ctx.saved_tensors), slope, ctx.scale), None


_with_fast_backward: Callable[..., Tensor] = _FastBackward.apply


def _slopes(qkv: Documents, slope: Tensor, scale: float) -> Documents:
    """The gradients of queries, keys and values, for that of the result, `slope`."""
    count = slope.shape[2]
    if more := -count % STEP:
        # what is added comes last, so nothing attends to it
        *given, slope = (F.pad(each, (0, 0, 0, more)) for each in (*qkv, slope))
        qkv = Documents(*given)
    documents, _, length, size = qkv.queries.shape
    groups = documents * qkv.keys.shape[1]
    # The queries that share a key head are rows of one matrix product.
    all_queries = qkv.queries.reshape(groups, -1, length, size)
    all_slopes = slope.reshape(all_queries.shape)
    all_keys = qkv.keys.reshape(groups, length, size)
    all_values = qkv.values.reshape(groups, length, size)
    of_queries = torch.empty_like(all_queries)
    of_keys = torch.zeros(all_keys.shape, dtype=torch.float32)  # a sum of blocks
    of_values = torch.zeros_like(of_keys)
    for begin in range(0, length, _BLOCK):
        end = min(begin + _BLOCK, length)
        queries = all_queries[:, :, begin:end].reshape(groups, -1, size)
        slopes = all_slopes[:, :, begin:end].reshape(groups, -1, size)
        keys, values = all_keys[:, :end], all_values[:, :end]
        scores = torch.bmm(queries * scale, keys.mT)
        later = torch.ones(end - begin, end - begin, dtype=torch.bool).triu_(1)
        scores.view(groups, -1, end - begin, end)[..., begin:].masked_fill_(later, -math.inf)
        weights = scores.softmax(dim=-1)
        of_values[:, :end] += torch.bmm(weights.mT, slopes)
        of_scores = softmax_slope(torch.bmm(slopes, values.mT), weights)
        of_block = torch.bmm(of_scores, keys).mul_(scale)
        of_queries[:, :, begin:end] = of_block.view(groups, -1, end - begin, size)
        of_keys[:, :end] += torch.bmm(of_scores.mT, queries)
    return Documents(
        of_queries.view(qkv.queries.shape)[:, :, :count],
        of_keys.mul_(scale).to(all_keys.dtype).view(qkv.keys.shape)[:, :, :count],
        of_values.to(all_values.dtype).view(qkv.values.shape)[:, :, :count],
    )
