"""What all optimizers of ticks have in common: `.grad` itself is the accumulated gradient.

Autograd adds into `.grad`. So between ticks nothing need happen, and after one the gradient is
multiplied by the momentum instead of zeroed: `c = momentum * c + (sum of the window's gradients)`,
with no buffer beside it. What this file does is find out where the gradients of a window are:

- *in place*: `.grad` is still the tensor that was carried over, and beats were added into it;
- *apart*: somebody took it away (`model.zero_grad()`), or a limit needs the window's own gradient.
  Then `.grad` is a new tensor, which is added to the carried one at the tick.

Whether beats were added in place is told by the version that torch counts for every tensor.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch._compile import _disable_dynamo

from metronorm.errors import ConfigError, DivergenceError
from metronorm.optim import checks
from metronorm.optim.blocks import alone, local, sum_dtype
from metronorm.optim.limits import Limits, clip_factor, finite, total_norm
from metronorm.optim.state import SUM, Sums, accumulate_in_float32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from metronorm.optim.checks import Group

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("metronorm")


class Entry(NamedTuple):
    """A parameter that has a gradient in this window, and where that is."""

    parameter: Tensor
    group: Group
    carried: Tensor | None  # c; None before the first tick
    fresh: Tensor | None  # not yet in c; None if all of the window is
    begun: bool  # some of the window is in c

    @property
    def newest(self) -> Tensor:
        """The tensor that holds the window's gradient."""
        newest = self.carried if self.fresh is None else self.fresh
        assert newest is not None
        return newest


def _untraced(method: Callable[P, T]) -> Callable[P, T]:
    """Keep torch.compile out of a method: code that it traces has no versions of tensors.

    Unlike torch.compiler.disable, this loads the compiler (a second) only when it is called.
    """
    return cast("Callable[P, T]", _disable_dynamo(method))


class Accumulator(Sums):
    """Base of the optimizers of ticks: finds the gradients of a window, limits and folds them.

    `gradient_norm` is the 2-norm of the last window's gradient (with `max_beat_norm` of its last
    beat's) before it was clipped, None without such a limit. `skipped` counts windows that were
    dropped.

    Args:
        params: parameters or groups of them.
        defaults: of a group; `momentum` is required.
        limits: of the gradient.
    """

    # so that a GradScaler hands over its scale instead of unscaling what is carried
    _step_supports_amp_scaling = True

    def __init__(self, params: Any, defaults: Group, limits: Limits) -> None:
        self._limits = limits
        self._apart = limits.apart
        self._versions = {}
        self._told = False
        self.gradient_norm: float | None = None
        self.skipped = 0
        super().__init__(checks.as_groups(params), {"kind": type(self).__name__, **defaults})

    # --- what a kind of optimizer defines -------------------------------------------------------

    def _check(self, group: Group) -> None:
        """Refuse hyper-parameters that cannot work."""
        checks.check_number(group, "lr")
        checks.check_number(group, "momentum", below=1)
        checks.check_number(group, "weight_decay")

    def _move(self, group: Group, parameters: list[Tensor], sums: list[Tensor]) -> None:
        """Update the parameters of a group along its sums, and multiply those by the momentum."""
        raise NotImplementedError

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with hyper-parameters of their own; see `torch.optim.Optimizer`.

        Raises:
            ConfigError: a parameter that is there already, or values that cannot work.
        """
        checks.check_new(param_group, self.param_groups)
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            accumulate_in_float32(parameter)

    # --- a tick ---------------------------------------------------------------------------------

    @_untraced
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by what the window's beats have accumulated.

        Args:
            closure: runs the beats, and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            ConfigError: no beat since the last tick, or gradients that cannot be taken; the
                parameters and what is carried are untouched.
            DivergenceError: the window's gradient is not finite; the parameters are untouched.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        window = list(self._window())
        if not window:
            raise ConfigError(
                "a tick must follow at least one beat",
                got="no gradient since the last one",
                fix="loss.backward() before step()",
            )
        if self._limit(window):
            self._fold(window)
            self._move_all(window)
            self._carry(window)
        return loss

    @_untraced
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop gradients that are not part of a sum yet. Begins no new sum: a tick does.

        What has been accumulated stays, and so does what is carried: that is the momentum.

        Args:
            set_to_none: of no consequence.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad is not self._sum(parameter):
                    parameter.grad = None

    def _move_all(self, window: list[Entry]) -> None:
        for group, parameters, sums in self._groups(window):
            self._move(group, parameters, sums)

    def _groups(self, window: list[Entry]) -> Iterator[tuple[Group, list[Tensor], list[Tensor]]]:
        """Every group that has gradients, with their parameters and sums."""
        for group in self.param_groups:
            parameters = [entry.parameter for entry in window if entry.group is group]
            if parameters:
                yield group, parameters, [self.state[each][SUM] for each in parameters]

    # --- finding the gradients of a window ------------------------------------------------------

    def _window(self) -> Iterator[Entry]:
        for group in self.param_groups:
            self._check(group)
            for parameter in group["params"]:
                entry = self._entry(parameter, group)
                if entry:
                    yield entry

    def _entry(self, parameter: Tensor, group: Group) -> Entry | None:
        carried, fresh = self._sum(parameter), parameter.grad
        if fresh is not None:
            checks.check_gradient(parameter, fresh)
            checks.check_own_memory(fresh)
        if carried is None:
            return None if fresh is None else Entry(parameter, group, None, fresh, False)
        state = self.state[parameter]
        grown = self._grown(parameter, carried)
        if fresh is carried:
            fresh = None
        elif grown:
            raise ConfigError(
                "gradients must not be taken away in the middle of a window: they are in the sum",
                got="a .grad set to None, or replaced, after a beat had been added to it",
                fix="model.zero_grad() right after step(), or not at all",
            )
        begun = grown or state["open"]
        if fresh is None and not begun:
            return None
        if group["momentum"] != state["momentum"]:
            if begun:
                raise ConfigError(
                    "momentum can change only while no beat is added to what is carried, which was "
                    "multiplied by the old one",
                    got=f"{group['momentum']} after {state['momentum']}",
                    fix="model.zero_grad() after every step(): gradients are then apart "
                    "(one buffer)",
                )
            checks.rescaling(state["momentum"], group["momentum"])
        return Entry(parameter, group, carried, fresh, begun)

    # --- limits ---------------------------------------------------------------------------------

    def _limit(self, window: list[Entry]) -> bool:
        """Unscale, check and clip what is new in the window; False if that was dropped."""
        limits = self._limits
        if limits.of_window and any(entry.begun for entry in window):
            raise ConfigError(
                "max_grad_norm and skipping need a window's gradient apart from what is carried",
                got="beats that were added to the sum before these limits were set",
                fix="set them at a tick",
            )
        if not self._unscale(window):
            return self._skip(window)
        if limits.on_nonfinite and not finite([entry.newest for entry in window]):
            if limits.on_nonfinite == "skip":
                return self._skip(window)
            raise DivergenceError(
                "the gradient of a tick must be finite",
                got="infinite or NaN elements",
                fix='a lower lr, or on_nonfinite="skip", which drops such windows (one buffer)',
            )
        largest = limits.max_grad_norm or limits.max_beat_norm
        if largest:
            fresh = [entry.fresh for entry in window if entry.fresh is not None]
            if fresh:
                norm = total_norm(fresh)
                self.gradient_norm = float(norm)
                torch._foreach_mul_(fresh, clip_factor(self.gradient_norm, largest))
        return True

    def _unscale(self, window: list[Entry]) -> bool:
        """Divide by the scale of a GradScaler that steps this optimizer; False if it overflowed."""
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if scale is None and overflow is None:
            return True
        if any(entry.begun for entry in window):
            raise ConfigError(
                "a GradScaler needs the window's gradient apart from what is carried",
                got="scaled beats that were added to a sum",
                fix="step with the scaler from the first tick on, and clip by max_grad_norm",
            )
        self._apart = True
        self._tell("a GradScaler", window)
        if scale is not None:
            torch._foreach_mul_([entry.newest for entry in window], 1 / scale.item())
        return overflow is None or not overflow.item()

    def _skip(self, window: list[Entry]) -> bool:
        self.skipped += 1
        for entry in window:
            entry.parameter.grad = None
        return False

    # --- what is carried ------------------------------------------------------------------------

    @_untraced
    @torch.no_grad()
    def fold(self) -> None:
        """End a beat that is to be clipped by itself (`max_beat_norm`): add it to the sum.

        To be called after every `backward()` of a window; `step()` does it for the last.

        Raises:
            ConfigError: the optimizer has no `max_beat_norm`: autograd adds the beats.
            DivergenceError: the beat's gradient is not finite; the sum is as it was.
        """
        if self._limits.max_beat_norm is None:
            raise ConfigError(
                "fold() is for beats that are clipped one by one",
                got="no max_beat_norm",
                fix="leave it out: backward() adds to the sum",
            )
        beat = [entry for entry in self._window() if entry.fresh is not None]
        self._limit(beat)
        self._fold(beat)
        for entry in beat:
            entry.parameter.grad = None

    def _fold(self, window: list[Entry]) -> None:
        if not self._apart and any(e.carried is not None and e.fresh is not None for e in window):
            shared = any(self.state[e.parameter].get("apart") for e in window)
            self._tell("DDP's bucket view" if shared else "a loop that takes .grad away", window)
        for parameter, group, carried, fresh, _ in window:
            if fresh is None:
                continue
            state = self.state[parameter]
            if carried is None:
                carried = state[SUM] = alone(fresh).to(sum_dtype(parameter))
                state["apart"] = carried is not fresh and local(fresh) is fresh  # as DDP's buckets
            else:
                if group["momentum"] != state["momentum"]:
                    carried.mul_(checks.rescaling(state["momentum"], group["momentum"]))
                carried.add_(fresh)
            state["momentum"] = group["momentum"]
            state["open"] = True
            self._versions[parameter] = local(carried)._version

    def _carry(self, window: list[Entry]) -> None:
        for parameter, group, *_ in window:
            state = self.state[parameter]
            state["open"] = False
            self._versions[parameter] = local(state[SUM])._version
            apart = state["apart"] or self._is_apart(group)
            parameter.grad = None if apart else state[SUM]

    def _tell(self, who: str, window: list[Entry]) -> None:
        if self._told:
            return
        self._told = True
        size = sum(local(e.newest).nbytes for e in window if e.fresh is not None)
        _log.warning("%s keeps .grad apart from the sum: %.1f MiB more", who, size / 2**20)
