"""Limits of a window's gradient: how large it may be, and whether it must be finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from metronorm.errors import ConfigError
from metronorm.optim.blocks import all_finite, local
from metronorm.scalars import as_real

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributed import ProcessGroup

OnNonfinite = Literal["raise", "skip", "hold"]


@dataclass(frozen=True)
class Limits:
    """Limits of the gradient of a window or a beat.

    All but `on_nonfinite="raise"` and "hold" need that gradient in a buffer of its own, separate
    from the sum.

    Raises:
        ConfigError: a limit that is not above 0, or two that exclude each other.
    """

    max_grad_norm: float | None = None
    max_beat_norm: float | None = None
    on_nonfinite: OnNonfinite | None = "raise"

    def __post_init__(self) -> None:
        for name in ("max_grad_norm", "max_beat_norm"):
            object.__setattr__(self, name, checked_norm(name, getattr(self, name)))
        if self.on_nonfinite not in ("raise", "skip", "hold", None):
            raise ConfigError(
                'on_nonfinite must be "raise", "skip", "hold" or None', got=repr(self.on_nonfinite)
            )
        if self.max_beat_norm is not None and (
            self.max_grad_norm is not None or self.on_nonfinite == "skip"
        ):
            raise ConfigError(
                "max_beat_norm folds every beat by itself, so nothing can clip or drop its window",
                got=f"max_grad_norm={self.max_grad_norm}, on_nonfinite={self.on_nonfinite!r}",
                fix='max_grad_norm=None and on_nonfinite="raise"',
            )

    @property
    def hold(self) -> bool:
        """Whether the device itself decides if parameters move, so that a step never waits."""
        return self.on_nonfinite == "hold"

    @property
    def of_window(self) -> bool:
        """Whether one of them needs the gradient of a whole window."""
        return self.max_grad_norm is not None or self.on_nonfinite == "skip"

    @property
    def separate(self) -> bool:
        """Whether they need gradients separate from the accumulated sum."""
        return self.of_window or self.max_beat_norm is not None


def checked_norm(name: str, value: float | None) -> float | None:
    """A largest norm as a Python number; None for no limit.

    Raises:
        ConfigError: it is not above 0.
    """
    number = as_real(value)
    if value is not None and (number is None or not number > 0):
        raise ConfigError(f"{name} must be above 0, or None", got=repr(value))
    return number


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all elements of all tensors, on all ranks that have parts of them."""
    norm = torch.nn.utils.get_total_norm(tensors)
    whole = getattr(norm, "full_tensor", None)
    return whole() if whole else norm


def clip_factor(norm: float, largest: float) -> float:
    """The factor that makes a norm at most `largest`; 1 where it already is, or is not finite."""
    return largest / norm if math.isfinite(norm) and norm > largest else 1.0


def clip_tensor(norm: Tensor, largest: float) -> Tensor:
    """What `clip_factor` gives, as a 0-dim tensor on the norm's device, without waiting for it."""
    exact = norm if norm.device.type == "mps" else norm.double()  # rounded as Python rounds
    factor = torch.full_like(exact, largest) / exact  # number / tensor is rounded twice
    return torch.where(exact.isfinite() & (exact > largest), factor, 1.0)


def finite(tensors: Sequence[Tensor], *, on_all_ranks: bool = False) -> bool:
    """Whether every element is finite, on every rank that shares the tensors.

    Args:
        tensors: those of this rank. DTensors name the ranks that share them.
        on_all_ranks: whether all ranks have parts, although the tensors do not say so (FSDP1).
    """
    here = all_finite(tensors)
    groups = sharing(tensors, on_all_ranks=on_all_ranks)
    if not groups:
        return here
    flag = torch.tensor(float(here), device=local(tensors[0]).device)
    for group in groups:
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN, group=group)
    return bool(flag.item())


def sharing(tensors: Sequence[Tensor], *, on_all_ranks: bool) -> list[ProcessGroup | None]:
    """The groups of ranks that share tensors, for one collective after the other; None: all ranks.

    Args:
        tensors: those of this rank. DTensors name the ranks that share them.
        on_all_ranks: whether all ranks have parts, although the tensors do not say so (FSDP1).
    """
    if on_all_ranks:
        return [None]
    sharded = next((tensor for tensor in tensors if local(tensor) is not tensor), None)
    if sharded is None:
        return []
    mesh = sharded.device_mesh  # type: ignore[attr-defined]
    return [mesh.get_group(dimension) for dimension in range(mesh.ndim)]
