"""Gated feed-forward blocks, `down(act(gate(x)) * up(x))`, that keep no product for the backward.

torch's graph keeps four tensors of a block's hidden width: the gate, its activation, `up(x)`, and
the product, which is the input of `down`. Here it keeps two, the gate and `up(x)`; the others are
computed again in the backward pass, which costs two of the cheap passes and no matrix product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metronorm.finetune._torch_private import has_hooks_of_saved

if TYPE_CHECKING:
    from collections.abc import Callable

    Activation = Callable[[Tensor], Tensor]


class GatedMLP(nn.Module):
    """A block with the layers of another, under the same names.

    Args:
        base: a block of transformers with `gate_proj`, `up_proj`, `down_proj` and `act_fn`.
    """

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = base.gate_proj, base.up_proj
        self.down_proj, self.act_fn = base.down_proj, base.act_fn
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        needs_no_care = not (torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad))
        if needs_no_care or torch.compiler.is_compiling() or has_hooks_of_saved():
            return self.down_proj(self.act_fn(gate) * up)  # type: ignore[no-any-return]
        product: Tensor = _Product.apply(gate, up, self.act_fn)  # type: ignore[no-untyped-call]
        kept = _Again(product, gate.detach(), up.detach(), self.act_fn)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            return self.down_proj(product)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """`act(gate) * up`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Activation) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        product: Tensor = act(gate) * up
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            active = ctx.act(gate)
        (of_gate,) = torch.autograd.grad(active, gate, slope * up)
        return of_gate, slope * active.detach(), None


class _Again:
    """Leaves a product out of what a graph keeps; it is made again where it is asked for."""

    def __init__(self, product: Tensor, gate: Tensor, up: Tensor, act: Activation) -> None:
        self._place = product.untyped_storage().data_ptr()
        self._gate, self._up, self._act = gate, up, act

    def pack(self, tensor: Tensor) -> Any:
        """What to keep of a tensor: of the product only its shape, while it is alive."""
        if tensor.untyped_storage().data_ptr() == self._place:
            return tensor.shape
        return tensor

    def unpack(self, kept: Any) -> Tensor:
        """The tensor again."""
        if not isinstance(kept, torch.Size):
            return kept  # type: ignore[no-any-return]
        return (self._act(self._gate) * self._up).view(kept)


def keep_no_products(model: nn.Module) -> None:
    """Replace the gated blocks of a model, in place; its parameters keep names and objects."""
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("MLP") and all(hasattr(module, part) for part in parts):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, GatedMLP(module))
