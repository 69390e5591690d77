"""Which parameters are those of norms, and norms in float32 inside a bfloat16 body.

A gain of 0.4 in bfloat16 has neighbours 0.002 away: an update of 0.0005 is rounded away, and the
next one too. In float32 the neighbours are 3e-8 away. So gains stay float32 whatever the body is:
they are a few thousandths of the parameters. Each norm then computes in float32 and gives its
input's dtype to the layer that follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import Any


def norms(model: nn.Module) -> dict[str, nn.Module]:
    """The norm layers that have a weight, by name: torch's, ours, and those of transformers."""
    return {name: module for name, module in model.named_modules() if _is_norm(module)}


def _is_norm(module: nn.Module) -> bool:
    if any(True for _ in module.children()):
        return False
    named = isinstance(module, nn.LayerNorm | nn.RMSNorm) or "norm" in type(module).__name__.lower()
    return named and isinstance(getattr(module, "weight", None), nn.Parameter)


def norm_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights and biases of the norms, by name."""
    return {
        f"{name}.{leaf}": parameter
        for name, module in norms(model).items()
        for leaf, parameter in module.named_parameters(recurse=False)
    }


def keep_input_dtype(model: nn.Module) -> None:
    """Let every float32 norm return the dtype of its input, where it would not by itself.

    Ours do. So do some of transformers (Gemma's); others multiply a half-precision row by float32
    gains, and return float32 to a layer that refuses it.
    """
    for module in norms(model).values():
        weight = module.weight
        assert isinstance(weight, Tensor)
        row = torch.ones(1, *weight.shape, dtype=torch.bfloat16, device=weight.device)
        with torch.no_grad():
            if module(row).dtype != row.dtype:
                module.register_forward_hook(_to_input_dtype)


def _to_input_dtype(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.to(given[0].dtype)
