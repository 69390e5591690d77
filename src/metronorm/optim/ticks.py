"""Ticks: gradient descent with momentum, with the gradient as its only state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from metronorm.errors import ConfigError
from metronorm.optim import checks
from metronorm.optim._torch_private import add_each, move_and_multiply, multiply_each, zero_each
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.blocks import add, apply_momentum, blocks, local
from metronorm.optim.limits import Limits, checked_norm, clip_factor, clip_tensor, total_norm

if TYPE_CHECKING:
    from torch import Tensor

    from metronorm.optim.accumulator import Carry
    from metronorm.optim.checks import Group
    from metronorm.optim.entry import Entry
    from metronorm.optim.limits import OnNonfinite

Scaling = Literal["sum", "mean", "amplified"]


class Ticks(Accumulator):
    """Momentum over ticks: `c = momentum * c + (sum of the window's gradients)`; `p -= lr * c`.

    `.grad` is `c`. After a tick `c` is multiplied by the momentum instead of zeroed, and autograd
    adds the beats of the next window to it. So the parameters and `.grad` are the only memory. The
    updates are those of `torch.optim.SGD` (heavy ball: Polyak, 1964).

    If the losses of the beats have the weights of `metronorm.optim.windows`, a window of any number
    of beats makes the same update as one big batch, except for rounding.

    Args:
        params: parameters, or groups of them with their own hyper-parameters.
        lr: learning rate.
        momentum: share of `c` that stays after a tick, in [0, 1).
        weight_decay: coupled weight decay: the gradient of `weight_decay / 2 p²` is added to `c`
            once per window.
        decoupled: the weight decay shrinks the parameters by `lr * weight_decay` instead
            (Loshchilov & Hutter, 2019).
        scaling: the scale of the update. "sum": `lr * c`. "mean": `lr * (1 - momentum) * c`, the
            moving average of the gradients. "amplified": `lr * c / (1 - momentum)`; in a steady
            state that is `1 / (1 - momentum)²` times the gradient, 100 times for 0.9.
        maximize: move up the gradient instead of down.
        foreach: True uses torch's multi-tensor operations, False works tensor by tensor; both round
            as SGD does. None chooses the fastest way.
        carry: where `c` is. "auto": in `.grad`. A limit, a GradScaler, or gradients that are
            dropped before the first tick make it separate. "separate": in a buffer of its own from
            the beginning, as in torch.optim (one more buffer). Use it for loops that drop gradients
            of another loss, and for clipping by the loop.
        max_grad_norm: clip the gradient of every window, exactly, to this 2-norm (one more buffer).
        max_beat_norm: clip what every beat adds to `c`, to this 2-norm; call `fold()` after every
            beat (one more buffer).
        max_update_norm: clip the update to this 2-norm, before the learning rate. `c` does not
            change, and no buffer is needed.
        on_nonfinite: "raise" raises an error and leaves the parameters as they were; "skip" drops
            the whole window (one more buffer); "hold" leaves the parameters as they were, in this
            step and all that follow, without ever waiting for the device: see `held`; None does not
            check. The check reads `c` once more.
        stochastic_rounding: round bfloat16 parameters at random, so that no update is lost.

    Raises:
        ConfigError: hyper-parameters or parameters are not valid.

    Half-precision parameters have float32 sums. Complex parameters work as in SGD.
    """

    _copied = Accumulator._copied | {"_max_update_norm"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        scaling: Scaling = "sum",
        *,
        decoupled: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        carry: Carry = "auto",
        max_grad_norm: float | None = None,
        max_beat_norm: float | None = None,
        max_update_norm: float | None = None,
        on_nonfinite: OnNonfinite | None = "raise",
        stochastic_rounding: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "scaling": scaling,
            "decoupled": decoupled,
            "maximize": maximize,
            "foreach": foreach,
            "carry": carry,
            "stochastic_rounding": stochastic_rounding,
        }
        self._max_update_norm = checked_norm("max_update_norm", max_update_norm)
        super().__init__(params, defaults, Limits(max_grad_norm, max_beat_norm, on_nonfinite))

    def _check(self, group: Group) -> None:
        super()._check(group)
        if group["foreach"] and group["stochastic_rounding"]:
            raise ConfigError("stochastic_rounding is done tensor by tensor", got="foreach=True")
        checks.check_whole(group, "max_update_norm", self._max_update_norm)
        checks.check_choice(group, "scaling", ("sum", "mean", "amplified"))

    def _move_all(self, window: list[Entry]) -> None:
        self._clip: float | Tensor = 1.0
        if self._max_update_norm is not None:
            norms = []
            for group, parameters, sums in self._groups(window):
                if decay := coupled_decay(group):
                    for parameter, total in zip(parameters, sums, strict=True):
                        total.add_(parameter, alpha=decay)
                norms.append((scale(group), total_norm(sums)))
            self._clip = self._clip_factor(norms, self._max_update_norm)
        super()._move_all(window)

    def _clip_factor(self, norms: list[tuple[float, Tensor]], largest: float) -> float | Tensor:
        """What the update must be multiplied by, from the scale and the norm of every group."""
        if self._limits.hold:
            scaled = torch.stack([factor * norm for factor, norm in norms])
            return clip_tensor(torch.linalg.vector_norm(scaled), largest)
        return clip_factor(math.hypot(*(factor * float(norm) for factor, norm in norms)), largest)

    def _move(self, group: Group, parameters: list[Tensor], sums: list[Tensor]) -> None:
        momentum, rate = float(group["momentum"]), float(group["lr"])
        clip = self._clip if isinstance(self._clip, torch.Tensor) else None  # on the device
        factor = 1.0 if isinstance(self._clip, torch.Tensor) else self._clip
        alpha = rate * scale(group) * factor * (1 if group["maximize"] else -1)
        held, stochastic = self._held_in_step, group["stochastic_rounding"]
        kept = 1 - rate * group["weight_decay"] if group["decoupled"] else 1.0
        decay = coupled_decay(group) if self._max_update_norm is None else 0.0  # added before
        if kept == 1 and can_fuse(group, parameters, sums):
            move_and_multiply(
                [local(each) for each in parameters],
                [local(each) for each in sums],
                factor=alpha if clip is None else clip * alpha,
                momentum=momentum,
                decay=decay,
                held=held,
            )
        elif held is None and (
            group["foreach"] or (group["foreach"] is None and on_accelerators(parameters))
        ):
            if decay:
                add_each(sums, parameters, factor=decay)
            if kept != 1:
                multiply_each(parameters, kept)
            add_each(parameters, sums, factor=alpha)
            if momentum:
                multiply_each(sums, momentum)
            else:
                zero_each(sums)
        else:
            for parameter, total in zip(parameters, sums, strict=True):
                for p, c in blocks(parameter, total):
                    if decay:
                        c.add_(p, alpha=decay)
                    update = c if clip is None else c * clip
                    add(p, update, alpha, kept=kept, stochastic=stochastic, held=held)
                    apply_momentum(c, momentum)


def can_fuse(group: Group, parameters: list[Tensor], sums: list[Tensor]) -> bool:
    """Whether `move_and_multiply` can take a group: dense, alike, and rounded as usual."""
    first = local(parameters[0])
    return (
        group["foreach"] is None
        and not group["stochastic_rounding"]
        and not group["maximize"]
        and group["momentum"] > 0.5
        and first.device.type in ("cpu", "cuda")
        and first.is_floating_point()
        and all(
            part.dtype == first.dtype and part.device == first.device and part.is_contiguous()
            for part in map(local, (*parameters, *sums))
        )
    )


def coupled_decay(group: Group) -> float:
    """The factor of the parameter that weight decay adds to the sum, as a gradient would be."""
    if group["decoupled"]:
        return 0.0
    decay = float(group["weight_decay"])
    return -decay if group["maximize"] else decay


def scale(group: Group) -> float:
    """The factor of the sum in an update, by `scaling`."""
    kept = 1 - float(group["momentum"])
    return {"sum": 1.0, "mean": kept, "amplified": 1 / kept}[group["scaling"]]


def on_accelerators(parameters: list[Tensor]) -> bool:
    """Whether no parameter is on the CPU, where a sweep over all tensors leaves the caches."""
    return all(parameter.device.type != "cpu" for parameter in parameters)
