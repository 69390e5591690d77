"""What all optimizers of ticks have in common: `.grad` itself is the accumulated gradient.

Autograd adds into `.grad`. So between ticks nothing need happen, and after one the gradient is
multiplied by the momentum instead of zeroed: `c = momentum * c + (sum of the window's gradients)`,
with no buffer beside it. What this file does is find out where the gradients of a window are:

- *in place*: `.grad` is still the tensor that was carried over, and beats were added into it;
- *apart*: somebody took it away (`model.zero_grad()`), a limit needs the window's own gradient, or
  `carry="separate"` keeps it so. Then `.grad` is a new tensor, which is added to the carried one at
  the tick.

Whether beats were added in place is what `beats.py` tells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch._compile import _disable_dynamo

from metronorm.errors import ConfigError, DivergenceError
from metronorm.optim import checks
from metronorm.optim._torch_private import is_flattened
from metronorm.optim.blocks import alone, fade, local, sum_dtype
from metronorm.optim.limits import Limits, clip_factor, finite, total_norm
from metronorm.optim.state import SUM, Sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from metronorm.optim.checks import Group

Carry = Literal["auto", "separate"]

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
        self._told = False
        self.gradient_norm: float | None = None
        self.skipped = 0
        defaults = {"kind": type(self).__name__, "carry": "auto", **defaults}
        super().__init__(checks.as_groups(params), defaults)

    # --- what a kind of optimizer defines -------------------------------------------------------

    def _check(self, group: Group) -> None:
        """Refuse hyper-parameters that cannot work."""
        checks.check_number(group, "lr")
        checks.check_number(group, "momentum", below=1)
        checks.check_number(group, "weight_decay")
        checks.check_choice(group, "carry", ("auto", "separate"))
        for name in ("max_grad_norm", "max_beat_norm"):
            checks.check_whole(group, name, getattr(self._limits, name))

    def _move(self, group: Group, parameters: list[Tensor], sums: list[Tensor]) -> None:
        """Update the parameters of a group along its sums, and multiply those by the momentum."""
        raise NotImplementedError

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with hyper-parameters of their own; see `torch.optim.Optimizer`.

        Raises:
            ConfigError: a parameter that is there already, or values that cannot work.
        """
        checks.check_new(param_group, self.param_groups)
        checked = {**self.defaults, **param_group}
        self._check(checked)
        param_group.update(checked)
        super().add_param_group(param_group)

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
        """Drop gradients that are not part of a sum. What is carried stays: that is the momentum.

        Before the first backward() of a window that is nothing, and costs nothing. A loop that
        drops gradients before its first tick (of another loss, say) will do so again: from then on
        windows are kept apart, as by `carry="separate"`, for one more buffer.

        Args:
            set_to_none: of no consequence.

        Raises:
            ConfigError: beats of an unfinished window are in a sum already, and cannot be taken
                back.
        """
        beats, dropped, begun = self._beats, [], False
        take_back = self._limits.max_beat_norm is None  # what fold() has added is meant to be there
        for parameter in self._parameters():
            fresh, carried = parameter.grad, self._sum(parameter)
            if carried is not None:
                begun = True
                if self._moved(parameter, carried):
                    carried = self._followed(parameter, carried)
                    fresh = parameter.grad
                if take_back and beats.open(parameter, self.state[parameter]):
                    raise ConfigError(
                        "zero_grad() cannot take back gradients that were added to what is carried",
                        got="some since the last step()",
                        fix=self._WAYS_OUT,
                    )
            if fresh is not None and fresh is not carried:
                dropped.append(parameter)
        for parameter in dropped:
            parameter.grad = None
        if dropped and not begun:
            self._separate()

    # how to drop a window, or the gradients of another loss
    _WAYS_OUT = (
        'carry="separate", with which zero_grad() and model.zero_grad() drop them as in torch.optim'
        " (one more buffer); or torch.autograd.grad() for a loss that is not to be learned from"
    )

    def _open(self, parameter: Tensor) -> bool:
        """Whether beats of an unfinished window are in the sum of a parameter."""
        return self._beats.open(parameter, self.state[parameter])

    def _is_apart(self, group: Group) -> bool:
        return self._limits.apart or group["carry"] == "separate"

    def _separate(self) -> None:
        """Keep windows apart from what is carried, from the next on."""
        if all(map(self._is_apart, self.param_groups)):
            return
        for group in self.param_groups:
            group["carry"] = "separate"
        size = sum(each.numel() * sum_dtype(each).itemsize for each in self._parameters())
        self._tell("a loop that drops gradients before its first step()", size)

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
        if self._moved(parameter, carried) or (fresh is not None and fresh is not carried):
            carried = self._followed(parameter, carried)  # after model.to()
            fresh = parameter.grad
        begun = state["open"] or self._open(parameter)
        if fresh is carried:
            fresh = None
            if self._beats.watched and self._beats.changed(parameter):
                self._beats.warn()
                self._beats.look(parameter, carried)
        elif begun and not (state["apart"] or self._is_apart(group)):
            raise ConfigError(
                "gradients must not be taken away in the middle of a window: they are in the sum",
                got="a .grad set to None, or replaced, after a beat had been added to it",
                fix=f"model.zero_grad() right after step(), or not at all; {self._WAYS_OUT}",
            )
        if fresh is None and not begun:
            return None
        if group["momentum"] != state["momentum"]:
            if begun:
                raise ConfigError(
                    "momentum can change only while no beat is added to what is carried, which was "
                    "multiplied by the old one",
                    got=f"{group['momentum']} after {state['momentum']}",
                    fix='carry="separate", or model.zero_grad() after every step(): gradients are '
                    "then apart (one buffer)",
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
        everywhere = is_flattened(window[0].parameter) if window else False
        newest = [entry.newest for entry in window]
        if limits.on_nonfinite and not finite(newest, everywhere=everywhere):
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
                fix='step with the scaler from the first tick on, or carry="separate"; and clip by '
                "max_grad_norm",
            )
        self._tell("a GradScaler", sizes(window))
        self._separate()
        if scale is not None:
            torch._foreach_mul_([entry.newest for entry in window], 1 / scale.item())
        return overflow is None or not overflow.item()

    def _skip(self, window: list[Entry]) -> bool:
        self.skipped += 1
        self._beats.tick()
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
        taken = [e for e in window if e.carried is not None and e.fresh is not None]
        if any(not self._is_apart(entry.group) for entry in taken):
            shared = any(self.state[entry.parameter].get("apart") for entry in taken)
            who = (
                "a wrapper (DDP's bucket view, FSDP1)" if shared else "a loop that takes .grad away"
            )
            self._tell(who, sizes(taken))
        for parameter, group, carried, fresh, _ in window:
            if fresh is None:
                continue
            state = self.state[parameter]
            if carried is None:
                own = alone(fresh)
                carried = state[SUM] = own.to(sum_dtype(parameter))
                shared = own is not fresh and local(fresh) is fresh  # as DDP's buckets
                state["apart"] = shared or is_flattened(parameter)
            else:
                if group["momentum"] != state["momentum"]:
                    fade(carried, checks.rescaling(state["momentum"], group["momentum"]))
                carried.add_(fresh)
            state["momentum"] = group["momentum"]
            state["open"] = True
            self._beats.look(parameter, carried)

    def _carry(self, window: list[Entry]) -> None:
        self._beats.tick()
        for parameter, group, *_ in window:
            state = self.state[parameter]
            state["open"] = False
            self._beats.look(parameter, state[SUM])
            apart = state["apart"] or self._is_apart(group)
            parameter.grad = None if apart else state[SUM]

    def _tell(self, who: str, size: int) -> None:
        if not self._told:
            self._told = True
            _log.warning("%s keeps .grad apart from the sum: %.1f MiB more", who, size / 2**20)


def sizes(window: list[Entry]) -> int:
    """Bytes of the gradients that are not in a sum."""
    return sum(local(entry.newest).nbytes for entry in window if entry.fresh is not None)
