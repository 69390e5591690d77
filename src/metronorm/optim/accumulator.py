"""The base of all optimizers of ticks: `.grad` itself is the accumulated gradient.

Autograd adds into `.grad`. So nothing has to happen between ticks, and at a tick the gradient is
multiplied by the momentum instead of set to zero: `c = momentum * c + (sum of the window's
gradients)`, with no buffer beside it. A tick is, in this order:

    find     which tensor holds the window's gradient of each parameter (`entry.py`)
    limit    unscale, check and clip it, or skip the window (`limits.py`, `holding.py`)
    fold     add to the sum what is not in it yet
    move     update the parameters along the sums, and multiply those by the momentum
    carry    let autograd add the next window into the sum, or keep that separate

`sums.py` has the table of what a sum goes through; `beats.py` decides which changes are beats.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch.optim import Optimizer

from metronorm.errors import ConfigError, DivergenceError
from metronorm.optim import checks
from metronorm.optim._torch_private import (
    is_flattened,
    multiply_each,
    takes_grad_scale,
    without_compiler,
)
from metronorm.optim.blocks import local, sum_dtype, with_own_storage
from metronorm.optim.entry import Entry, find_entry, separate_bytes
from metronorm.optim.holding import check_flag, held_after
from metronorm.optim.limits import Limits, clip_factor, clip_tensor, finite, total_norm
from metronorm.optim.sums import MOMENTUM, OPEN, SUM, WRAPPED, Sums, may_have_moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from metronorm.optim.checks import Group

Carry = Literal["auto", "separate"]

_log = logging.getLogger("metronorm")


@takes_grad_scale  # a GradScaler must not divide `.grad`, which holds earlier windows too
class Accumulator(Optimizer):
    """Base of the optimizers of ticks: finds the gradients of a window, limits and folds them.

    Attributes:
        gradient_norm: the 2-norm of the last window's gradient before it was clipped (with
            `max_beat_norm`, of the last beat's); None without such a limit. With
            `on_nonfinite="hold"` a 0-dim tensor on the device.
        skipped: how many windows were dropped.

    Args:
        params: parameters, or groups of them.
        defaults: hyper-parameters of a group; `momentum` is required.
        limits: of the gradient.

    Per parameter, `state` holds `accumulated` (c, of the parameter's shape; float32 for half
    precision), `momentum` (what c was last multiplied by), `open` (whether c holds beats of an
    unfinished window) and `apart` (whether c cannot be `.grad`, because a wrapper such as DDP has
    the memory of `.grad`).
    """

    # what the state of a parameter can hold; subclasses add theirs
    _state_names: ClassVar[frozenset[str]] = frozenset(
        {SUM, MOMENTUM, OPEN, WRAPPED, "window", "pending"}
    )
    # attributes that a copy keeps
    _copied: ClassVar[frozenset[str]] = frozenset(
        {"_limits", "_warned", "_held", "gradient_norm", "skipped"}
    )
    # how to drop a window, or the gradients of another loss
    _WAYS_OUT = (
        'carry="separate", with which zero_grad() and model.zero_grad() drop them as in torch.optim'
        " (one more buffer); or torch.autograd.grad() for a loss that is not to be learned from"
    )

    def __init__(self, params: Any, defaults: Group, limits: Limits) -> None:
        self._limits = limits
        self._warned = False
        self._sums = Sums(self)
        self._held: Tensor | None = None  # until somebody needs it
        self.gradient_norm: float | Tensor | None = None
        self.skipped = 0
        defaults = {"kind": type(self).__name__, "carry": "auto", **defaults}
        super().__init__(checks.as_groups(params), defaults)
        self._sums.make_known()

    # --- what a kind of optimizer defines ---------------------------------------------------------

    def _check(self, group: Group) -> None:
        """Refuse hyper-parameters that cannot work."""
        if self._limits.hold:
            checks.check_on_host(group)
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
        parameters = checks.tensors(param_group)
        taken_over = self._sums.take_over(parameters)
        super().add_param_group(param_group)
        for parameter in taken_over:
            parameter.grad = None
        for parameter in parameters:
            self._sums.watch(parameter)

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    # --- a tick -----------------------------------------------------------------------------------

    @without_compiler
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by what the window's beats have accumulated.

        Args:
            closure: runs the beats, and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            ConfigError: no beat since the last tick, or gradients that cannot be used; parameters
                and sums are as they were.
            DivergenceError: the window's gradient is not finite; the parameters are as they were.
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
            self._update(window)
        return loss

    def _window(self) -> Iterator[Entry]:
        for group in self.param_groups:
            self._check(group)
            for parameter in group["params"]:
                entry = self._entry(parameter, group)
                if entry:
                    yield entry

    def _entry(self, parameter: Tensor, group: Group) -> Entry | None:
        separate = self._is_separate(group)
        return find_entry(parameter, group, self._sums, separate=separate, ways_out=self._WAYS_OUT)

    def _update(self, window: list[Entry]) -> None:
        """Fold, move, carry: what follows when the gradients of a window may be used."""
        self._fold(window)
        self._move_all(window)
        self._carry(window)

    def _fold(self, window: list[Entry]) -> None:
        """Add to the sums what is not in them yet; a first gradient becomes the sum."""
        added = [e for e in window if e.accumulated is not None and e.new_gradient is not None]
        if any(not self._is_separate(entry.group) for entry in added):
            wrapped = any(self.state[entry.parameter].get(WRAPPED) for entry in added)
            loop, wrapper = "a loop that takes .grad away", "a wrapper (DDP's bucket view, FSDP1)"
            self._warn_once(wrapper if wrapped else loop, separate_bytes(added))
        for entry in window:
            if entry.new_gradient is not None:
                self._sums.add(entry.parameter, entry.new_gradient, entry.group["momentum"])

    def _move_all(self, window: list[Entry]) -> None:
        for group, parameters, sums in self._groups(window):
            self._move(group, parameters, sums)

    def _groups(self, window: list[Entry]) -> Iterator[tuple[Group, list[Tensor], list[Tensor]]]:
        """Every group that has gradients, with their parameters and sums."""
        for group in self.param_groups:
            parameters = [entry.parameter for entry in window if entry.group is group]
            if parameters:
                yield group, parameters, [self.state[each][SUM] for each in parameters]

    def _carry(self, window: list[Entry]) -> None:
        """End the window: `.grad` is the sum again, or None where that stays separate."""
        self._sums.beats.end_window()
        for entry in window:
            self._sums.carry(entry.parameter, separate=self._is_separate(entry.group))

    # --- beats that are clipped, and gradients that are dropped -----------------------------------

    @without_compiler
    @torch.no_grad()
    def fold(self) -> None:
        """End a beat that is clipped by itself (`max_beat_norm`): add it to the sum.

        Call it after every `backward()` of a window; `step()` does it for the last.

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
        beat = [entry for entry in self._window() if entry.new_gradient is not None]
        self._limit(beat)
        self._fold(beat)
        for entry in beat:
            entry.parameter.grad = None

    @without_compiler
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop gradients that are not part of a sum. The sums stay: they are the momentum.

        Before the first backward() of a window this does nothing, and costs nothing. A loop that
        drops gradients before its first tick (those of another loss) will do so again: from then on
        windows are kept separate, as with `carry="separate"`, for one more buffer.

        Args:
            set_to_none: has no effect.

        Raises:
            ConfigError: beats of an unfinished window are in a sum already, and cannot be taken
                back.
        """
        dropped, accumulates = [], False
        take_back = self._limits.max_beat_norm is None  # else fold() has put them there for good
        for parameter in self._parameters():
            gradient, total = parameter.grad, self._sums.get(parameter)
            if total is not None:
                accumulates = True
                if may_have_moved(parameter, total):
                    total = self._sums.follow(parameter, total)
                    gradient = parameter.grad
                if take_back and self._sums.is_open(parameter):
                    raise ConfigError(
                        "zero_grad() cannot take back gradients that were added to the sum",
                        got="some since the last step()",
                        fix=self._WAYS_OUT,
                    )
            if gradient is not None and gradient is not total:
                dropped.append(parameter)
        for parameter in dropped:
            parameter.grad = None
        if dropped and not accumulates:
            self._separate()

    def _is_separate(self, group: Group) -> bool:
        """Whether the windows of a group are kept separate from the sum."""
        return self._limits.separate or group["carry"] == "separate"

    def _separate(self) -> None:
        """Keep windows separate from the sums, from the next window on."""
        if all(map(self._is_separate, self.param_groups)):
            return
        for group in self.param_groups:
            group["carry"] = "separate"
        size = sum(each.numel() * sum_dtype(each).itemsize for each in self._parameters())
        self._warn_once("a loop that drops gradients before its first step()", size)

    def _warn_once(self, who: str, size: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s keeps .grad separate from the sum: %.1f MiB more", who, size / 2**20)

    def _close_window(self) -> None:
        """Count the beats of an unfinished window as part of the windows before it."""
        self._sums.beats.end_window()
        for parameter in self._parameters():
            self._sums.begin_window(parameter)

    # --- a step that never waits ------------------------------------------------------------------

    @property
    def decides_on_device(self) -> bool:
        """Whether `on_nonfinite` is "hold": `step()` never waits for the device."""
        return self._limits.hold

    @property
    def held(self) -> Tensor:
        """Whether the parameters stay as they are, in this step and all that follow.

        It is a 0-dim bool tensor on the device of the parameters, and False unless
        `on_nonfinite="hold"`. To read its value (`bool(optimizer.held)`) waits for the device.
        """
        device = local(next(self._parameters())).device
        if self._held is None:
            self._held = torch.zeros((), dtype=torch.bool, device=device)
        elif self._held.device != device:  # model.to()
            self._held = self._held.to(device)
        return self._held

    @torch.no_grad()
    def hold(self, flag: Tensor) -> None:
        """Let the parameters stay as they are, from the next step on, if a flag is True.

        For what the optimizer does not see, such as a loss that is not finite. Nothing waits for
        the device. Where ranks hold whole parameters (DDP), all of them must have the same flag.

        Args:
            flag: a 0-dim bool tensor on the device of the parameters.

        Raises:
            ConfigError: without `on_nonfinite="hold"`, or another kind of flag.
        """
        if not self._limits.hold:
            raise ConfigError(
                "hold() is for an optimizer that decides on the device",
                got=f"on_nonfinite={self._limits.on_nonfinite!r}",
                fix='on_nonfinite="hold"',
            )
        check_flag(flag, self.held.device)
        self._held = self.held | flag

    @property
    def _held_in_step(self) -> Tensor | None:
        """The flag that updates must look at; None if there is none to look at."""
        return self.held if self._limits.hold else None

    # --- limits -----------------------------------------------------------------------------------

    def _limit(self, window: list[Entry]) -> bool:
        """Unscale, check and clip what is new in a window; False if the window was dropped."""
        limits = self._limits
        if limits.of_window and any(entry.window_started for entry in window):
            raise ConfigError(
                "max_grad_norm and skipping need a window's gradient separate from the sum",
                got="beats that were added to the sum before these limits were set",
                fix="set them at a tick",
            )
        if not self._unscale(window):
            return self._skip(window)
        in_fsdp1 = is_flattened(window[0].parameter) if window else False
        newest = [entry.newest for entry in window]
        if limits.hold:
            self._held = held_after(self.held, newest, on_all_ranks=in_fsdp1)
        elif limits.on_nonfinite and not finite(newest, on_all_ranks=in_fsdp1):
            if limits.on_nonfinite == "skip":
                return self._skip(window)
            raise DivergenceError(
                "the gradient of a tick must be finite",
                got="infinite or NaN elements",
                fix='a lower lr, or on_nonfinite="skip", which drops such windows (one buffer)',
            )
        largest = limits.max_grad_norm or limits.max_beat_norm
        new = [entry.new_gradient for entry in window if entry.new_gradient is not None]
        if largest and new:
            norm = total_norm(new)
            if limits.hold:
                self.gradient_norm = norm
                _multiply_on_device(new, clip_tensor(norm, largest))
            else:
                self.gradient_norm = float(norm)
                multiply_each(new, clip_factor(self.gradient_norm, largest))
        return True

    def _unscale(self, window: list[Entry]) -> bool:
        """Divide by the scale of a GradScaler that steps this optimizer; False if it overflowed."""
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if scale is None and overflow is None:
            return True
        if self._limits.hold:
            raise ConfigError(
                'on_nonfinite="hold" stops for good, and a GradScaler drops single windows that '
                "overflow",
                got="a step by a GradScaler",
                fix='bfloat16, which needs no scaler, or on_nonfinite="skip"',
            )
        if any(entry.window_started for entry in window):
            raise ConfigError(
                "a GradScaler needs the window's gradient separate from the sum",
                got="scaled beats that were added to a sum",
                fix='step with the scaler from the first tick on, or carry="separate"; and clip by '
                "max_grad_norm",
            )
        self._warn_once("a GradScaler", separate_bytes(window))
        self._separate()
        if scale is not None:
            multiply_each([entry.newest for entry in window], 1 / scale.item())
        return overflow is None or not overflow.item()

    def _skip(self, window: list[Entry]) -> bool:
        """Drop the gradients of a window; always False."""
        self.skipped += 1
        self._sums.beats.end_window()
        for entry in window:
            entry.parameter.grad = None
        return False

    # --- to disk and back, and copies -------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The sums, the gradients of an unfinished window beside them, and the hyper-parameters.

        Per parameter, in addition to what the class lists (nothing before the first tick):
        `window`, the gradients of an unfinished window that are not in the sum, and `pending`,
        whether there must be such. Loaded in the middle of a window, the run goes on exactly there.
        """
        plain = super().state_dict()
        state = {index: dict(values) for index, values in plain["state"].items()}
        for index, parameter in enumerate(self._parameters()):
            total, gradient = self._sums.get(parameter), parameter.grad
            pending = gradient is not None and gradient is not total
            if total is not None:
                state[index][OPEN] = self._sums.is_open(parameter)
                state[index]["pending"] = pending
            if gradient is not None and pending:
                state.setdefault(index, {})["window"] = with_own_storage(gradient)
        return {**plain, "state": state}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another optimizer of the same kind and parameters stood; tensors are copied.

        `held` is False afterwards.

        Raises:
            CheckpointError: the state of another kind of optimizer or of other shapes; nothing has
                changed.
        """
        parameters = list(self._parameters())
        given = checks.check_state(state_dict, self.param_groups, self._state_names)
        stale = set(self.state)
        # the base class would cast sums to the dtype of the parameters
        super().load_state_dict({**state_dict, "state": {}})
        for index, parameter in enumerate(parameters):
            values = {
                name: checks.copied(value, parameter)
                for name, value in given.get(index, {}).items()
            }
            if parameter in stale or values:
                parameter.grad = values.pop("window", None)
            values.pop("pending", None)
            self._sums.beats.forget(parameter)
            if values:
                self.state[parameter] = values
        self._sums.beats.end_window()
        self._held = None  # the loaded sums are sound
        self._attach()

    def _attach(self) -> None:
        """Let autograd add into the loaded or copied sums, where they are not kept separate."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._sums.attach(parameter, separate=self._is_separate(group))

    def __getstate__(self) -> dict[str, Any]:
        new_gradients = {}  # copies of parameters come without gradients
        for parameter in self._parameters():
            total, gradient = self._sums.get(parameter), parameter.grad
            if total is not None:
                self.state[parameter][OPEN] = self._sums.is_open(parameter)
                self._sums.beats.mark(parameter, total)
            if gradient is not None and gradient is not total:
                new_gradients[parameter] = gradient
        mine = {name: value for name, value in vars(self).items() if name in self._copied}
        return {**super().__getstate__(), **mine, "new_gradients": new_gradients}

    def __setstate__(self, state: dict[str, Any]) -> None:
        new_gradients = state.pop("new_gradients", None)
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("carry", "auto")  # an older state has none
        if new_gradients is None:  # the base class loads a state
            return
        self._sums = Sums(self)  # a copy, or unpickled: other tensors
        self._sums.make_known()
        for parameter in self._parameters():
            self._sums.watch(parameter)
            parameter.grad = new_gradients.get(parameter)
        self._attach()


def _multiply_on_device(tensors: list[Tensor], factor: Tensor) -> None:
    """Multiply tensors by a 0-dim tensor, in place."""
    dtype = tensors[0].dtype
    if dtype.itemsize >= 4 and all(tensor.dtype == dtype for tensor in tensors):
        factor = factor.to(dtype)  # one kernel on a GPU
    multiply_each([local(tensor) for tensor in tensors], factor)
