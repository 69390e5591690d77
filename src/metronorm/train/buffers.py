"""The buffers of a model, such as the running statistics of BatchNorm, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


def places(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each buffer is: its module, and its name there; a model may put another one there."""
    return {
        f"{prefix}.{name}" if prefix else name: (module, name)
        for prefix, module in model.named_modules()
        for name, _ in module.named_buffers(recurse=False)
    }


def copies(model: nn.Module) -> dict[str, Tensor]:
    """A copy of each buffer."""
    return {whole: getattr(*place).clone() for whole, place in places(model).items()}


def take_from_first(model: nn.Module, names: Sequence[str]) -> None:
    """Give all ranks these buffers as they are on rank 0."""
    found = places(model) if names else {}
    for name in names:
        distributed.broadcast(getattr(*found[name]), 0)
