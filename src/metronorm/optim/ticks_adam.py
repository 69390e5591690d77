"""TicksAdam: AdamW whose first moment is the accumulated gradient. Approximate."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import get_gradient_edge

from metronorm.errors import ConfigError, DivergenceError
from metronorm.optim import checks
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.blocks import add, blocks, local, sum_dtype
from metronorm.optim.limits import Limits, finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.autograd.graph import Node
    from torch.distributed import ProcessGroup

    from metronorm.optim.accumulator import Entry
    from metronorm.optim.checks import Group


class TicksAdam(Accumulator):
    """AdamW in three quarters of its memory: *approximate* for windows of more than one beat.

    The first moment is exact: `m = (1 - beta1) * c`, where `c = beta1 * c + sum of the window's
    gradients` is `.grad`. The second moment of AdamW is of the square of that sum, which is never
    at hand; taken instead is the sum of the squares of the beats: `v = beta2 * v + (1 - beta2) *
    sum of g²` (AdamA: Zhang et al., 2023, arXiv:2305.19982). With one beat per window the update is
    AdamW's. With k beats that agree `v` is k times too small; with beats that are pure noise its
    mean is right.

    Args:
        params: parameters, or groups of them; real, and not spread over ranks (FSDP).
        lr: learning rate.
        betas: shares of the moments that stay after a tick, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled: shrinks the parameters by `lr * weight_decay`.
        process_group: whose ranks average gradients (DDP): the squares are averaged too, at every
            tick. Needed where torch.distributed has more than one rank.

    Raises:
        ConfigError: hyper-parameters or parameters that cannot work.
    """

    _state_names = Accumulator._state_names | {"squares", "step"}
    _own = Accumulator._own | {"_process_group"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        process_group: ProcessGroup | None = None,
    ) -> None:
        checks.check_betas({"betas": betas})
        self._process_group = process_group
        self._nodes: list[Node] = []  # held: torch itself would drop them, and what watches
        defaults = {
            "lr": lr,
            "momentum": betas[0],
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults, Limits(None, None, "raise"))

    def _check(self, group: Group) -> None:
        checks.check_betas(group)
        group["momentum"] = group["betas"][0]
        super()._check(group)
        checks.check_real(group, "TicksAdam")
        checks.check_number(group, "eps")
        if (
            self._process_group is None
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size() > 1
        ):
            raise ConfigError(
                "TicksAdam must know which ranks average gradients",
                got="no process_group",
                fix="process_group=torch.distributed.group.WORLD",
            )
        for parameter in checks.tensors(group):
            if local(parameter) is not parameter:
                raise ConfigError(
                    "TicksAdam takes parameters that every rank has whole: it must see the beats' "
                    "gradients before they are reduced",
                    got=f"a {type(parameter).__name__}",
                    fix='TicksMuon with method="adamw", or torch.optim.AdamW',
                )

    def add_param_group(self, param_group: Group) -> None:
        """As `Accumulator.add_param_group`; begins to watch the gradients."""
        super().add_param_group(param_group)
        self._watch(len(self.param_groups) - 1)

    def _watch(self, number: int) -> None:
        """See what autograd is about to add to the gradients of a group.

        That is before the node that accumulates: hooks of the tensor are also called by
        `torch.autograd.grad`, which accumulates nothing, and before those that change the gradient.
        """
        this = weakref.ref(self)
        for parameter in self.param_groups[number]["params"]:
            if not parameter.requires_grad:
                continue
            place = weakref.ref(parameter)

            def see(gradients: Sequence[Tensor], place: weakref.ref[Tensor] = place) -> None:
                optimizer, parameter = this(), place()
                if optimizer is not None and parameter is not None:
                    optimizer._square(parameter, gradients[0], optimizer.param_groups[number])

            node = get_gradient_edge(parameter).node
            self._nodes.append(node)
            weakref.finalize(self, node.register_prehook(see).remove)

    @torch.no_grad()
    def _square(self, parameter: Tensor, gradient: Tensor, group: Group) -> None:
        """Add the square of a beat's gradient to the second moment, before autograd folds it."""
        checks.check_gradient(parameter, gradient)
        state = self.state[parameter]
        exact = gradient.to(sum_dtype(gradient))
        if "squares" not in state:
            state.update(squares=torch.zeros_like(parameter, dtype=exact.dtype), step=0)
        state["squares"].addcmul_(exact, exact, value=(1 - group["betas"][1]) / self._ranks())

    def _entry(self, parameter: Tensor, group: Group) -> Entry | None:
        entry = super()._entry(parameter, group)
        if entry is not None and "squares" not in self.state.get(parameter, {}):
            # another rank can have seen it; and zeros are what torch's checkpoints begin with
            if self._process_group is None and entry.newest.any():
                raise ConfigError(
                    "TicksAdam must see every gradient when backward() adds it",
                    got=f"one for a parameter of shape {tuple(parameter.shape)} that it never saw",
                    fix="make the optimizer after unfreezing parameters, before the first backward",
                )
            zeros = torch.zeros_like(parameter, dtype=sum_dtype(parameter))
            self.state[parameter].update(squares=zeros, step=0)
        return entry

    def _ranks(self) -> int:
        group = self._process_group
        return 1 if group is None else torch.distributed.get_world_size(group)

    def _unscale(self, window: list[Entry]) -> bool:
        if getattr(self, "found_inf", None) is not None:
            raise ConfigError(
                "TicksAdam squares gradients as they come, and a GradScaler's are scaled",
                fix="bfloat16, which needs no scaler",
            )
        return super()._unscale(window)

    def _limit(self, window: list[Entry]) -> bool:
        squares = [self.state[entry.parameter]["squares"] for entry in window]
        if self._process_group is not None:
            for each in squares:
                torch.distributed.all_reduce(each, group=self._process_group)
                each.div_(self._ranks())
        if not finite(squares):  # also after a window that was refused and taken away
            raise DivergenceError(
                "the squares of all gradients must be finite",
                got="infinite or NaN elements",
                fix="a lower lr, from the last checkpoint on",
            )
        return super()._limit(window)

    def _move(self, group: Group, parameters: list[Tensor], sums: list[Tensor]) -> None:
        rate, (beta1, beta2) = float(group["lr"]), group["betas"]
        kept = 1 - rate * group["weight_decay"]
        for parameter, carried in zip(parameters, sums, strict=True):
            state = self.state[parameter]
            state["step"] += 1
            of_first = 1 - beta1 ** state["step"]
            of_second = math.sqrt(1 - beta2 ** state["step"])
            for p, c, v in blocks(parameter, carried, state["squares"]):
                update = c / v.sqrt().div_(of_second).add_(group["eps"])
                add(p, update, -rate * (1 - beta1) / of_first, kept=kept)
                c.mul_(beta1)
                v.mul_(beta2)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_limits" in state:  # not where the base class loads a state
            self._nodes = []
            for number in range(len(self.param_groups)):
                self._watch(number)
