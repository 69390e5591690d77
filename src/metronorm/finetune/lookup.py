"""Token embeddings whose gradient is added to `.grad` row by row.

torch makes a gradient as large as the whole table for each beat, most of it zeros, and adds that.
Here only the rows of the beat's tokens are touched, under the conditions of
`metronorm.loss.accumulation`; a table that is the head too gets both gradients into one sum.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional

from metronorm.loss.accumulation import pass_on

if TYPE_CHECKING:
    from collections.abc import Callable


def add_rows_alone(model: Any) -> None:
    """Let the token embeddings of a transformers model do so, in place, if they are plain."""
    table = model.get_input_embeddings()
    if type(table) is nn.Embedding and not _has_options(table):
        table.__dict__["forward"] = functools.partial(_looked_up, table)  # of this one alone


def _has_options(table: nn.Embedding) -> bool:
    return (
        table.padding_idx is not None
        or table.max_norm is not None
        or table.scale_grad_by_freq
        or table.sparse
    )


def _looked_up(table: nn.Embedding, ids: Tensor) -> Tensor:
    weight = table.weight
    plain = not (torch.is_grad_enabled() and weight.requires_grad) or torch.compiler.is_compiling()
    if plain or type(weight) is not nn.Parameter:
        return functional.embedding(ids, weight)
    return _lookup(weight, ids)


class _Lookup(torch.autograd.Function):
    """`weight[ids]`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(weight, ids)
        ctx.edge = get_gradient_edge(weight)
        ctx.leaf = weight if weight.is_leaf else None
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        weight, ids = ctx.saved_tensors
        dtype = torch.promote_types(weight.dtype, torch.float32)
        ids, rows = ids.reshape(-1), slope.reshape(-1, slope.shape[-1]).to(dtype)

        def write(total: Tensor, is_new: bool) -> None:
            if is_new:
                total.zero_()
            total.index_add_(0, ids, rows)

        return pass_on(write, ctx.edge.node, ctx.leaf, weight, dtype), None


_lookup: Callable[..., Tensor] = _Lookup.apply
