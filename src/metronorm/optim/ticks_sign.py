"""TicksSign: the sign of the accumulated gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.optim import checks
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.blocks import add, apply_momentum, blocks
from metronorm.optim.limits import Limits

if TYPE_CHECKING:
    from torch import Tensor

    from metronorm.optim.accumulator import Carry
    from metronorm.optim.checks import Group
    from metronorm.optim.limits import OnNonfinite


class TicksSign(Accumulator):
    """Signum (Bernstein et al., 2018, arXiv:1802.04434): `p -= lr * sign(c)`.

    `c = momentum * c + (sum of the window's gradients)` is `.grad`, as in `Ticks`.

    Args:
        params: parameters, or groups of them; they must be real.
        lr: distance that every element of a parameter moves at a tick.
        momentum: share of `c` that stays after a tick, in [0, 1).
        weight_decay: decoupled weight decay: shrinks the parameters by `lr * weight_decay`.
        maximize: move up the gradient instead of down.
        carry: as in `Ticks`.
        max_grad_norm: as in `Ticks`.
        max_beat_norm: as in `Ticks`.
        on_nonfinite: as in `Ticks`.
        stochastic_rounding: as in `Ticks`.

    Raises:
        ConfigError: hyper-parameters or parameters are not valid.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        carry: Carry = "auto",
        max_grad_norm: float | None = None,
        max_beat_norm: float | None = None,
        on_nonfinite: OnNonfinite | None = "raise",
        stochastic_rounding: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "carry": carry,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "stochastic_rounding": stochastic_rounding,
        }
        super().__init__(params, defaults, Limits(max_grad_norm, max_beat_norm, on_nonfinite))

    def _check(self, group: Group) -> None:
        super()._check(group)
        checks.check_real(group, "TicksSign")

    def _move(self, group: Group, parameters: list[Tensor], sums: list[Tensor]) -> None:
        momentum, rate = float(group["momentum"]), float(group["lr"])
        kept = 1 - rate * group["weight_decay"]
        alpha, stochastic = rate if group["maximize"] else -rate, group["stochastic_rounding"]
        held = self._held_in_step
        for parameter, total in zip(parameters, sums, strict=True):
            for p, c in blocks(parameter, total):
                add(p, c.sign(), alpha, kept=kept, stochastic=stochastic, held=held)
                apply_momentum(c, momentum)
