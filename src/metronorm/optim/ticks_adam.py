"""TicksAdam: AdamW with the accumulated gradient as its first moment. Approximate."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.autograd.graph import get_gradient_edge

from metronorm.errors import ConfigError, DivergenceError
from metronorm.optim import checks
from metronorm.optim._torch_private import is_flattened, running_node
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.blocks import add, blocks, local, sum_dtype
from metronorm.optim.holding import held_after
from metronorm.optim.limits import Limits, finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.autograd.graph import Node
    from torch.distributed import ProcessGroup
    from torch.utils.hooks import RemovableHandle

    from metronorm.optim.checks import Group
    from metronorm.optim.entry import Entry


class WatchedNode(NamedTuple):
    """The node that accumulates a parameter's gradient, and our hook on it."""

    node: Node
    hook: RemovableHandle


class TicksAdam(Accumulator):
    """AdamW in three quarters of its memory: *approximate* for windows of more than one beat.

    The first moment is exact: `m = (1 - beta1) * c`, where `c = beta1 * c + sum of the window's
    gradients` is `.grad`. AdamW's second moment uses the square of the window's sum, which does not
    exist separately. TicksAdam uses the sum of the squares of the beats instead: `v = beta2 * v +
    (1 - beta2) * sum of g²` (AdamA: Zhang et al., 2023, arXiv:2305.19982). With one beat per window
    the update is that of AdamW. If k beats agree, `v` is k times too small; if the beats are pure
    noise, the mean of `v` is right.

    Args:
        params: parameters, or groups of them; they must be real, and not sharded (FSDP).
        lr: learning rate.
        betas: shares of the two moments that stay after a tick, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay: shrinks the parameters by `lr * weight_decay`.
        process_group: the ranks that average gradients (DDP). They also average the squares, at
            every tick. It is required if torch.distributed has more than one rank.
        on_nonfinite: "raise" or "hold", as in `Ticks`.

    Raises:
        ConfigError: hyper-parameters or parameters are not valid.
    """

    _state_names = Accumulator._state_names | {"squares", "step"}
    _copied = Accumulator._copied | {"_process_group"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        process_group: ProcessGroup | None = None,
        on_nonfinite: Literal["raise", "hold"] = "raise",
    ) -> None:
        checks.check_betas({"betas": betas})
        checks.check_choice({"on_nonfinite": on_nonfinite}, "on_nonfinite", ("raise", "hold"))
        self._process_group = process_group
        self._begin()
        defaults = {
            "lr": lr,
            "momentum": betas[0],
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults, Limits(None, None, on_nonfinite))

    def _begin(self) -> None:
        # torch would drop these nodes, and their hooks, if nobody held them
        self._nodes: dict[Tensor, WatchedNode] = {}
        self._squared: dict[Tensor, None] = {}  # parameters with squares of an unfinished window
        self._taken_away = False  # whether one of those has lost its gradient since
        weakref.finalize(self, _unhook, self._nodes)

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
            if local(parameter) is not parameter or is_flattened(parameter):
                raise ConfigError(
                    "TicksAdam takes parameters that every rank holds whole: it must see the "
                    "gradients of the beats before they are reduced",
                    got=f"a {type(parameter).__name__}, sharded by FSDP",
                    fix='TicksMuon with method="adamw", or torch.optim.AdamW',
                )

    def add_param_group(self, param_group: Group) -> None:
        """Like `Accumulator.add_param_group`; also begins to watch the gradients."""
        super().add_param_group(param_group)
        self._watch(len(self.param_groups) - 1)

    def _watch(self, number: int) -> None:
        """Square what autograd is about to add to the gradients of a group.

        The hook `see` is at the node that accumulates, and not at the tensor: hooks of a tensor are
        also called by `torch.autograd.grad`, which accumulates nothing, and they may be called
        before other hooks that change the gradient. But `model.double()`, for example, gives the
        tensor another node. So the hook `follow` of the tensor, which is called first, moves `see`
        to the present node.
        """
        this = weakref.ref(self)
        for parameter in self.param_groups[number]["params"]:
            if not parameter.requires_grad:
                continue
            weak = weakref.ref(parameter)

            def square(gradients: Sequence[Tensor], weak: weakref.ref[Tensor] = weak) -> None:
                optimizer, parameter = this(), weak()
                if optimizer is not None and parameter is not None and gradients[0] is not None:
                    optimizer._square(parameter, gradients[0], optimizer.param_groups[number])

            def follow(_: Tensor, square: Any = square, weak: weakref.ref[Tensor] = weak) -> None:
                optimizer, parameter, node = this(), weak(), running_node()
                if optimizer is None or parameter is None or node is None:
                    return
                watched = optimizer._nodes[parameter]
                accumulates = getattr(node, "variable", None) is parameter
                if accumulates and node is not watched.node:  # torch.autograd.grad() runs others
                    watched.hook.remove()
                    optimizer._nodes[parameter] = WatchedNode(node, node.register_prehook(square))

            node = get_gradient_edge(parameter).node
            self._nodes[parameter] = WatchedNode(node, node.register_prehook(square))
            weakref.finalize(self, parameter.register_hook(follow).remove)

    @torch.no_grad()
    def _square(self, parameter: Tensor, gradient: Tensor, group: Group) -> None:
        """Add the square of a beat's gradient to the second moment; then autograd adds it to c."""
        checks.check_gradient(parameter, gradient)
        if parameter in self._sums.beats.reached:
            raise ConfigError(
                "a beat's gradient must come whole to be squared",
                got=f"a second part of one for a parameter of shape {tuple(parameter.shape)}, "
                "within one backward()",
                fix="use_reentrant=False in torch.utils.checkpoint, where a layer is shared",
            )
        self._sums.beats.reached.add(parameter)
        state = self.state[parameter]
        exact = gradient.to(sum_dtype(gradient))
        if "squares" not in state:
            state.update(squares=torch.zeros_like(parameter, dtype=exact.dtype), step=0)
        elif parameter.grad is None and parameter in self._squared:
            if state["step"] == 0:  # all squares are of the removed gradient
                state["squares"].zero_()
            else:
                self._taken_away = True
        self._squared[parameter] = None
        squares = state["squares"]
        if squares.dtype != exact.dtype or squares.device != exact.device:  # model.to()
            squares = state["squares"] = squares.to(exact.device, exact.dtype)
        squares.addcmul_(exact, exact, value=(1 - group["betas"][1]) / self._ranks())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Like `Accumulator.zero_grad`; before the first tick it also drops the squares.

        Raises:
            ConfigError: beats were squared since the last tick, and squares cannot be removed.
        """
        super().zero_grad(set_to_none)
        self._sums.beats.reached.clear()  # a backward() that failed has not come to its end
        for parameter in self._squared:
            if self.state[parameter]["step"]:
                raise self._cannot_take_back()
            self.state[parameter]["squares"].zero_()
        self._squared.clear()

    def _close_window(self) -> None:
        super()._close_window()
        self._squared.clear()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Like `Accumulator.load_state_dict`."""
        super().load_state_dict(state_dict)
        self._squared.clear()
        self._taken_away = False

    def _cannot_take_back(self) -> ConfigError:
        return ConfigError(
            "TicksAdam cannot take back gradients, because the second moment holds their squares",
            got="gradients that were dropped after backward()",
            fix=self._WAYS_OUT,
        )

    _WAYS_OUT = (
        "torch.optim.AdamW; or torch.autograd.grad() for a loss that is not to be learned from"
    )

    def _separate(self) -> None:
        """Do nothing: a separate buffer does not help with the squares."""

    def _carry(self, window: list[Entry]) -> None:
        super()._carry(window)
        self._squared.clear()

    def _entry(self, parameter: Tensor, group: Group) -> Entry | None:
        entry = super()._entry(parameter, group)
        if entry is not None and "squares" not in self.state.get(parameter, {}):
            # in a group another rank may have seen it; torch's checkpoints begin with zeros
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
        if self._limits.hold:
            self._held = held_after(self.held, squares)
        elif not finite(squares):  # also after a window that was refused and removed
            raise DivergenceError(
                "the squares of all gradients must be finite",
                got="infinite or NaN elements",
                fix="a lower lr, from the last checkpoint on",
            )
        if self._taken_away:
            raise self._cannot_take_back()
        return super()._limit(window)

    def _move(self, group: Group, parameters: list[Tensor], sums: list[Tensor]) -> None:
        rate, (beta1, beta2) = float(group["lr"]), group["betas"]
        held = self._held_in_step
        kept = 1 - rate * group["weight_decay"]
        for parameter, total in zip(parameters, sums, strict=True):
            state = self.state[parameter]
            state["step"] += 1
            of_first = 1 - beta1 ** state["step"]
            of_second = math.sqrt(1 - beta2 ** state["step"])
            for p, c, v in blocks(parameter, total, state["squares"]):
                update = c / v.sqrt().div_(of_second).add_(group["eps"])
                add(p, update, -rate * (1 - beta1) / of_first, kept=kept, held=held)
                c.mul_(beta1)
                v.mul_(beta2)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_limits" in state:  # not if the base class loads a state
            self._begin()
            for number in range(len(self.param_groups)):
                self._watch(number)


def _unhook(nodes: dict[Tensor, WatchedNode]) -> None:
    for watched in nodes.values():
        watched.hook.remove()
