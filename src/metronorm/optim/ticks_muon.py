"""TicksMuon: matrices move along the orthogonalised accumulated gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from metronorm.errors import ConfigError
from metronorm.optim import checks
from metronorm.optim._torch_private import multiplies_bfloat16
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.adamw import adamw_step
from metronorm.optim.blocks import add, apply_momentum, blocks, distribute_like, local
from metronorm.optim.limits import Limits
from metronorm.scalars import as_integer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from metronorm.optim.accumulator import Carry
    from metronorm.optim.checks import Group
    from metronorm.optim.entry import Entry
    from metronorm.optim.limits import OnNonfinite

Method = Literal["muon", "ticks", "adamw"]
AdjustLr = Literal["original", "match_rms_adamw"]

# Jordan et al. chose them to maximize the slope at 0.
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
CHUNK_ELEMENTS = 1 << 21  # of all matrices that are multiplied at once, unless two have more


class TicksMuon(Accumulator):
    """Muon (Jordan et al., 2024) for matrices, `Ticks` or AdamW for everything else.

    The update of a matrix is its accumulated gradient `c`, which is `.grad` as in `Ticks`, with all
    singular values brought near one. It equals `torch.optim.Muon(nesterov=False)`, in two thirds of
    the memory. Each group of parameters has a method; AdamW is better for embeddings, output heads
    and vectors:

        TicksMuon([
            {"params": matrices},
            {"params": rest, "method": "adamw", "lr": 3e-3, "weight_decay": 0.0},
        ], lr=0.02)

    Args:
        params: parameters, or groups of them with their own hyper-parameters; they must be real.
        lr: learning rate.
        momentum: share of `c` that stays after a tick, in [0, 1); "adamw" does not use it.
        weight_decay: decoupled weight decay: shrinks the parameters by `lr * weight_decay`.
        method: the method of a group. "muon": for matrices only. "ticks": `p -= lr * c`. "adamw":
            exact; its gradients are separate from the moments, so it saves nothing.
        ns_steps: number of Newton-Schulz iterations, in bfloat16.
        eps: a matrix is divided by its norm before the iterations, or by this if that is larger.
        adjust_lr_fn: "original" multiplies lr by `sqrt(max(1, rows / columns))`; "match_rms_adamw"
            by `0.2 * sqrt(max(rows, columns))` (Liu et al., 2025, arXiv:2502.16982).
        betas: shares of the moments of "adamw" that stay after a tick.
        nesterov: must be False. Nesterov's step needs the window's gradient and the sum, and the
            gradient cannot be separated from the sum once it is added.
        carry: as in `Ticks`.
        max_grad_norm: as in `Ticks`.
        on_nonfinite: as in `Ticks`.

    Raises:
        ConfigError: hyper-parameters or parameters are not valid.
    """

    _state_names = Accumulator._state_names | {"exp_avg", "exp_avg_sq", "step"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        method: Method = "muon",
        ns_steps: int = 5,
        eps: float = 1e-7,
        adjust_lr_fn: AdjustLr = "original",
        betas: tuple[float, float] = (0.9, 0.95),
        nesterov: bool = False,
        carry: Carry = "auto",
        max_grad_norm: float | None = None,
        on_nonfinite: OnNonfinite | None = "raise",
    ) -> None:
        if nesterov:
            raise ConfigError(
                "nesterov must be False: its step needs the window's gradient beside the sum that "
                "contains it",
                got="nesterov=True",
                fix="torch.optim.Muon, which has one more buffer",
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "carry": carry,
            "weight_decay": weight_decay,
            "method": method,
            "ns_steps": ns_steps,
            "eps": eps,
            "adjust_lr_fn": adjust_lr_fn,
            "betas": betas,
        }
        super().__init__(params, defaults, Limits(max_grad_norm, None, on_nonfinite))

    def _check(self, group: Group) -> None:
        super()._check(group)
        checks.check_real(group, "TicksMuon")
        checks.check_choice(group, "method", ("muon", "ticks", "adamw"))
        checks.check_choice(group, "adjust_lr_fn", ("original", "match_rms_adamw"))
        checks.check_number(group, "eps")
        given = group["ns_steps"]
        checks.check_number(group, "ns_steps", 1, 100)
        if (steps := as_integer(given)) is None:
            raise ConfigError("ns_steps must be a whole number", got=repr(given))
        group["ns_steps"] = steps
        checks.check_betas(group)
        if group["method"] == "muon":
            for parameter in checks.tensors(group):
                if parameter.ndim != 2:
                    raise ConfigError(
                        "muon takes matrices",
                        got=f"a parameter of shape {tuple(parameter.shape)}",
                        fix='a group with method="adamw" for it',
                    )

    def _update(self, window: list[Entry]) -> None:
        super()._update(_without_adamw(window))
        for group in self.param_groups:
            entries = [entry for entry in window if entry.group is group]
            if entries and group["method"] == "adamw":
                parameters = [entry.parameter for entry in entries]
                gradients = [entry.newest for entry in entries]
                states = [self.state[each] for each in parameters]
                adamw_step(group, parameters, gradients, states, held=self._held_in_step)
                for parameter in parameters:
                    parameter.grad = None

    def _move(self, group: Group, parameters: list[Tensor], sums: list[Tensor]) -> None:
        momentum, lr = float(group["momentum"]), float(group["lr"])
        kept, held = 1 - lr * group["weight_decay"], self._held_in_step
        for indices in same_shape_chunks(sums):
            some = [sums[index] for index in indices]
            updates, rate = some, lr
            if group["method"] == "muon":
                updates = orthogonalized(some, group["ns_steps"], group["eps"])
                rate = lr * _adjustment(group["adjust_lr_fn"], some[0].shape)
            for index, total, update in zip(indices, some, updates, strict=True):
                for p, c, u in blocks(parameters[index], total, update):
                    add(p, u, -rate, kept=kept, held=held)
                    apply_momentum(c, momentum)


def _without_adamw(window: list[Entry]) -> list[Entry]:
    return [entry for entry in window if entry.group["method"] != "adamw"]


def _adjustment(name: AdjustLr, shape: torch.Size) -> float:
    rows, columns = shape
    if name == "original":
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def same_shape_chunks(matrices: list[Tensor]) -> Iterator[list[int]]:
    """Indices of matrices to multiply at once: of one shape, and few, to need little memory."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(index)
    for shape, indices in by_shape.items():
        most = max(2, CHUNK_ELEMENTS // max(1, shape.numel()))  # one does not keep two cores busy
        for begin in range(0, len(indices), most):
            yield indices[begin : begin + most]


def orthogonalized(matrices: list[Tensor], steps: int, eps: float) -> list[Tensor]:
    """Each matrix with its singular values brought near one, by Newton-Schulz in bfloat16.

    On a CPU without instructions for bfloat16, where torch multiplies it forty times slower, the
    products are float32 ones, rounded to bfloat16: the same digits but for the order of additions.

    Matrices that are sharded over ranks are gathered, and the results are sharded the same way.

    Args:
        matrices: all of one shape, (rows, columns).
        steps: how many iterations.
        eps: the least norm by which a matrix is divided first.

    Returns:
        As many matrices of the same shape, in bfloat16.
    """
    whole = [getattr(matrix, "full_tensor", lambda matrix=matrix: matrix)() for matrix in matrices]
    stack = torch.stack([matrix.bfloat16() for matrix in whole])
    results = list(_newton_schulz(stack, steps, eps))
    return [
        result if local(matrix) is matrix else distribute_like(result, matrix)
        for result, matrix in zip(results, matrices, strict=True)
    ]


def _newton_schulz(x: Tensor, steps: int, eps: float) -> Tensor:  # (batch, rows, columns)
    a, b, c = NS_COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    if x.device.type == "cpu" and not multiplies_bfloat16():
        x = x.float()
    for _ in range(steps):
        gram = _rounded(x @ x.mT)
        polynomial = _rounded(torch.baddbmm(gram, gram, gram, beta=b, alpha=c))
        x = _rounded(torch.baddbmm(x, polynomial, x, beta=a))
    x = x.bfloat16()
    return x.mT if tall else x


def _rounded(x: Tensor) -> Tensor:
    """The values of bfloat16 nearest to x, in place and in the dtype of x."""
    return x if x.dtype == torch.bfloat16 else x.copy_(x.bfloat16())
