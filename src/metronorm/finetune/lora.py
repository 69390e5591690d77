"""LoRA (Hu et al., 2021, arXiv:2106.09685) that keeps no second copy of any layer's input.

    y = W x + bias + scale * B A x        scale = alpha / sqrt(rank)  (arXiv:2312.03732)

W is frozen, mostly bfloat16; A and B are float32. The term is computed in the dtype of A and B, or
in that of autocast, and the sum is rounded once, to the dtype of y. So are PEFT's numbers. But
PEFT's graph keeps x in the dtype of A, converted anew for each layer. Here the graph keeps x
itself, which layers share (queries, keys and values; gate and up). The backward pass converts it
again, and computes A x again, which is cheap.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection


class LoraLinear(nn.Module):
    """A linear layer with a low-rank term beside it; its own weight and bias keep their names.

    Args:
        base: `nn.Linear`, or the `Conv1D` of transformers, whose weight is (in, out).
        rank: of the term.
        alpha: the scale of the term is `alpha / sqrt(rank)`.
        dropout: share of the term's inputs that is dropped in training.

    Attributes:
        lora_A: (rank, in), float32 or better; random as in PEFT.
        lora_B: (out, rank), of the same dtype; zero, so the layer computes at first what it did.
    """

    bias: nn.Parameter | None

    def __init__(
        self, base: nn.Module, rank: int, alpha: float = 16.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        weight = base.weight
        assert isinstance(weight, nn.Parameter)
        self.weight = weight
        self.register_parameter("bias", getattr(base, "bias", None))
        self.is_transposed = not isinstance(base, nn.Linear)
        self.out_features, self.in_features = weight.T.shape if self.is_transposed else weight.shape
        self.rank, self.scale, self.dropout = rank, alpha / math.sqrt(rank), dropout
        dtype = torch.promote_types(weight.dtype, torch.float32)
        a = torch.empty(rank, self.in_features, dtype=dtype, device=weight.device)
        b = torch.zeros(self.out_features, rank, dtype=dtype, device=weight.device)
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        weight = self.weight.T if self.is_transposed else self.weight
        y = functional.linear(x, weight, self.bias)
        term_of = x
        if self.dropout:
            term_of = functional.dropout(x, self.dropout, self.training)
        dtype = _products_dtype(x, self.lora_A)
        added: Tensor = _AddTerm.apply(  # type: ignore[no-untyped-call]
            y, term_of, self.lora_A, self.lora_B, self.scale, dtype
        )
        return added

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight with the term added, in the dtype of `lora_A` and the layout of `weight`."""
        term = self.lora_B @ self.lora_A * self.scale
        return (term.T if self.is_transposed else term) + self.weight

    def extra_repr(self) -> str:
        """Sizes and scale, for `print`."""
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, scale={self.scale:.3g}"


def _products_dtype(x: Tensor, a: Tensor) -> torch.dtype:
    """The dtype in which the term is computed: autocast's, or that of its weights."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return a.dtype


class _AddTerm(torch.autograd.Function):
    """y + scale * B A x, and its gradients, which can be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, dtype: torch.dtype
    ) -> Tensor:
        # y (..., out), x (..., in), a (rank, in), b (out, rank)
        ctx.save_for_backward(x, a, b)
        ctx.options = scale, dtype
        low = functional.linear(x.to(dtype), a.to(dtype)).mul_(scale)  # (..., rank)
        term = functional.linear(low, b.to(dtype))
        # in place where the sum has the term's dtype; rounded once
        total = term.add_(y) if torch.promote_types(y.dtype, dtype) == dtype else term + y
        return total.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b = ctx.saved_tensors
        scale, dtype = ctx.options
        rows = dy.reshape(-1, dy.shape[-1]).to(dtype)
        inputs = x.reshape(-1, x.shape[-1]).to(dtype)
        slope = rows @ b.to(dtype) * scale  # (rows, rank)
        dx = da = db = None
        if ctx.needs_input_grad[1]:
            dx = (slope @ a.to(dtype)).to(x.dtype).reshape(x.shape)
        if ctx.needs_input_grad[2]:
            da = (slope.T @ inputs).to(a.dtype)
        if ctx.needs_input_grad[3]:
            db = (rows.T @ (inputs @ a.to(dtype).T * scale)).to(b.dtype)
        return dy, dx, da, db, None, None


def linear_names(model: nn.Module, skip: Collection[nn.Module] = ()) -> list[str]:
    """Names of the linear layers (also GPT-2's `Conv1D`) that are not inside modules of `skip`."""
    skipped = {id(inner) for module in skip for inner in module.modules()}
    return [
        name
        for name, module in model.named_modules()
        if id(module) not in skipped
        and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    ]


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    *,
    skip: Collection[nn.Module] = (),
) -> list[str]:
    """Put a term beside every linear layer; nothing else of the model changes.

    Args:
        model: whose layers to replace, in place. They keep their Parameter objects.
        rank: of each term.
        alpha: as in `LoraLinear`.
        dropout: as in `LoraLinear`.
        skip: modules in which nothing is replaced, such as the head.

    Returns:
        The names of the layers.

    Raises:
        ConfigError: there is no linear layer, or there are terms already; or the rank is above that
            of every layer, where a term would only cost more than training the layer.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise ConfigError("a model must be adapted once", got="one that has LoRA terms already")
    names = linear_names(model, skip)
    if not names:
        raise ConfigError("lora needs linear layers", got=f"a {type(model).__name__} without any")
    layers: list[Any] = [model.get_submodule(name) for name in names]
    most = max(min(layer.weight.shape) for layer in layers)
    if rank > most:
        raise ConfigError(
            "the rank of lora must be at most that of the model's layers",
            got=f"{rank:,}, where the widest layer has rank {most:,}",
            fix="--rank 16, or --way full",
        )
    for name in names:
        parent, _, leaf = name.rpartition(".")
        layer = LoraLinear(model.get_submodule(name), rank, alpha, dropout)
        setattr(model.get_submodule(parent), leaf, layer)
    return names


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers with a term, by name."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)
    }
