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

OnNonfinite = Literal["raise", "skip"]


@dataclass(frozen=True)
class Limits:
    """Limits of the gradient of a window or a beat.

    Such a limit needs the gradient in a buffer of its own, separate from what is carried over.

    Raises:
        ConfigError: a limit that is not positive, or two that exclude each other.
    """

    max_grad_norm: float | None = None
    max_beat_norm: float | None = None
    on_nonfinite: OnNonfinite | None = "raise"

    def __post_init__(self) -> None:
        for name in ("max_grad_norm", "max_beat_norm"):
            object.__setattr__(self, name, checked_norm(name, getattr(self, name)))
        if self.on_nonfinite not in ("raise", "skip", None):
            raise ConfigError(
                'on_nonfinite must be "raise", "skip" or None', got=repr(self.on_nonfinite)
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
    def of_window(self) -> bool:
        """Whether a limit applies to the gradient of a whole window."""
        return self.max_grad_norm is not None or self.on_nonfinite == "skip"

    @property
    def apart(self) -> bool:
        """Whether gradients must be separate from what is carried over."""
        return self.of_window or self.max_beat_norm is not None


def checked_norm(name: str, value: float | None) -> float | None:
    """A largest norm as a Python number.

    Raises:
        ConfigError: it is not above zero.
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
    """The factor that makes the norm at most `largest`; 1 if it is, or if it is not finite."""
    return largest / norm if math.isfinite(norm) and norm > largest else 1.0


def finite(tensors: Sequence[Tensor], *, everywhere: bool = False) -> bool:
    """Whether every element is finite, on every rank that has parts of the tensors.

    Args:
        tensors: tensors, or the parts of them that this rank has.
        everywhere: all ranks have parts, but the tensors do not show it (FSDP1).
    """
    here = all_finite(tensors)
    if everywhere:
        flag = torch.tensor(float(here), device=tensors[0].device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
        return bool(flag.item())
    spread = next((tensor for tensor in tensors if local(tensor) is not tensor), None)
    if spread is None:
        return here
    flag = torch.tensor(float(here), device=local(spread).device)
    mesh = spread.device_mesh  # type: ignore[attr-defined]
    for dimension in range(mesh.ndim):
        torch.distributed.all_reduce(
            flag, torch.distributed.ReduceOp.MIN, group=mesh.get_group(dimension)
        )
    return bool(flag.item())
