"""The cross entropy of a linear head, summed, without its logits."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from metronorm.errors import ConfigError
from metronorm.loss._torch_private import has_no_values, is_transformed, without_compiler
from metronorm.loss.accumulation import pass_on
from metronorm.loss.checks import check_targets, check_tensors, checked_options
from metronorm.loss.composed import composed
from metronorm.loss.head import Head
from metronorm.loss.passes import Wanted, add_weight_gradient, forward
from metronorm.loss.rows import counted_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.loss.checks import Options
    from metronorm.loss.rows import Counted

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
    soft_cap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    scale: float = 1.0,
    chunk: int | None = None,
) -> Tensor:
    """The *summed* cross entropy of a linear head, in nats, of which the logits are never held.

    Logits are `scale * (features @ weight.T + bias)`, then `soft_cap * tanh(logits / soft_cap)`.
    Only rows that count are computed: those with a target other than -100 and a weight other than
    0; the others may hold anything, NaN too. The rows go through in chunks, and a chunk's logits
    become their gradient in place:

    - forward(): the loss and the gradient of the features, two products (under `torch.no_grad()`
      the loss alone, one product).
    - backward(): the gradient of the weight. It needs the gradient of the logits once more. Where
      all rows fit in one chunk, that was kept: three products in all. Otherwise it is computed
      again, for all rows and one part of the vocabulary after the other: four products.
    - What needs no gradient (a frozen weight or bias, frozen features) costs nothing.

    The gradient of a weight is added straight into its `.grad` by `backward()`, so there is no
    second tensor of its size; other gradients of the same weight, as those of a tied embedding, are
    added to the same sum. It is returned to autograd instead, which needs such a tensor, where the
    weight is no leaf, where there is a process group (DDP, FSDP), where hooks must see the whole
    gradient, and where `.grad` is narrower than float32; and to `torch.autograd.grad`, which leaves
    `.grad` alone. `accumulation.py` has the exact conditions. `backward()` may run twice
    (`retain_graph=True`), and in activation checkpoints.

    Logits, sums and gradients are computed in float32, or in float64 if an argument is float64.
    Under autocast to bfloat16, or if features and weight are bfloat16, products multiply bfloat16
    and add in float32; a weight in half precision is converted in parts.

    Under transforms of `torch.func`, while `torch.export` traces, and for DTensors, torch's own
    operators compute the same, and the logits exist. Under `torch.compile` the graph breaks here.

    Args:
        features: (..., width), the input of the head.
        weight: (vocabulary, width).
        targets: integers, (...): the right entry of the vocabulary; -100 does not count.
        bias: (vocabulary,).
        weights: (...), a constant factor of each row's loss; 0 does not count. None: all 1.
        soft_cap: bound of the logits; it needs a second tensor of a chunk's size.
        label_smoothing: share of the target's probability that goes to all entries alike.
        z_loss: factor of the squared log of the softmax's denominator, which is added to each loss.
        scale: factor of the logits.
        chunk: rows whose logits exist at once; `4 * vocabulary` bytes each. None: as many as fit in
            128 MiB.

    Returns:
        A scalar, float32 or float64. Divide it by what counts in the whole window. A row with NaN
        makes it NaN.

    Raises:
        ConfigError: tensors or numbers that do not fit together, a target that is not in the
            vocabulary, or (in the backward pass) `create_graph=True`: the gradient cannot be
            differentiated again.

    >>> features, weight = torch.randn(5, 8), torch.randn(100, 8)
    >>> loss = linear_cross_entropy(features, weight, torch.tensor([3, 1, 4, -100, 99]))
    """
    if torch.compiler.is_dynamo_compiling():
        return _outside_of_compiler(
            features,
            weight,
            targets,
            bias=bias,
            weights=weights,
            soft_cap=soft_cap,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            scale=scale,
            chunk=chunk,
        )
    arguments = (features, weight, targets, bias, weights)
    check_tensors(*arguments)
    options = checked_options(
        features,
        weight,
        soft_cap=soft_cap,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        scale=scale,
        chunk=chunk,
    )
    given = [each for each in arguments if each is not None]
    if is_transformed() or any(type(one) not in _PLAIN or has_no_values(one) for one in given):
        return composed(*arguments, options)
    return _in_chunks(*arguments, options)


_outside_of_compiler = without_compiler(linear_cross_entropy)


def _in_chunks(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    options: Options,
) -> Tensor:
    counted = counted_rows(targets, weights, options.dtype)
    check_targets(counted.targets, len(weight))
    counted = counted.in_steps(options)
    with _without_autocast(features.device):
        if torch.is_grad_enabled() and _need_gradients(features, weight, bias):
            return _loss(features, weight, bias, counted, options)
        rows = counted.rows(features, options)
        return forward(Head(weight, bias, options), rows, Wanted()).loss


class _Loss(torch.autograd.Function):
    """The loss; see `passes.py` for what is computed when."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        counted: Counted,
        options: Options,
    ) -> Tensor:
        wanted = Wanted(*ctx.needs_input_grad[:3])
        found = forward(Head(weight, bias, options), counted.rows(features, options), wanted)
        ctx.counted, ctx.options = counted, options
        ctx.shape, ctx.dtype = features.shape, features.dtype
        ctx.edge = get_gradient_edge(weight) if wanted.weight else None
        ctx.leaf = weight if wanted.weight and weight.is_leaf else None
        again = (features, weight, bias) if wanted.weight else (None, None, None)
        ctx.save_for_backward(*again, *found[1:])
        return found.loss

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ConfigError(
                "the gradient of linear_cross_entropy cannot be differentiated again",
                got="create_graph=True",
                fix="F.cross_entropy of the logits, for second derivatives",
            )
        (slope,) = slopes
        features, weight, bias, logsumexp, of_features, of_bias, kept = ctx.saved_tensors
        of_weight = None
        if ctx.edge is not None:

            def write(total: Tensor, is_new: bool) -> None:
                head = Head(weight, bias, ctx.options)
                rows = ctx.counted.rows(features, ctx.options)
                with _without_autocast(slope.device):
                    add_weight_gradient(
                        head, rows, slope, logsumexp, kept, total=total, is_new=is_new
                    )

            of_weight = pass_on(write, ctx.edge.node, ctx.leaf, weight, ctx.options.dtype)
        if of_features is not None:
            of_features = ctx.counted.spread(of_features * slope, ctx.shape, ctx.dtype)
        if of_bias is not None:
            of_bias = of_bias * slope
        return of_features, of_weight, of_bias, None, None


_loss: Callable[..., Tensor] = _Loss.apply


def _need_gradients(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Products have the dtype that was chosen at the call."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
