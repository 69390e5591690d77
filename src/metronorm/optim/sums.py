"""The accumulated sums of an optimizer: where each is, and what autograd adds to.

Autograd adds gradients into `.grad`. Where `.grad` *is* the sum c, they become part of it and no
other buffer is needed. Where `.grad` is another tensor ("separate"), or None, the sum is in the
state of the optimizer only, and a tick adds the window's gradient to it.

What one parameter goes through; c is the sum, g a gradient of the window, m the momentum:

    state     | `.grad`   | event                      | next
    ----------|-----------|----------------------------|----------------------------------------
    no sum    | None or g | backward()                 | no sum: `.grad` is g
              |           | zero_grad()                | no sum, g dropped; from now on separate
              |           | step()                     | c = g, p moves, c *= m: ready or separate
    ready     | c         | backward()                 | open: c += g
              |           | step(), zero_grad()        | ready: no beat, so nothing to do
              |           | model.zero_grad()          | separate, for this window
              |           | `.grad` changed elsewhere  | ready, with a warning (see `beats.py`)
              |           | `.grad` = a view of c      | ready: the view is now c
    open      | c         | backward()                 | open: c += g
              |           | zero_grad()                | error: c + g is one number
              |           | `.grad` taken away         | error in step()
              |           | step()                     | p moves, c *= m: ready
    separate  | None      | backward()                 | new
              |           | step(), zero_grad()        | separate: no beat, so nothing to do
    new       | g         | backward()                 | new: g grows
              |           | zero_grad(), skipped       | separate: g dropped
              |           | fold() (`max_beat_norm`)   | folded: c += clipped g
              |           | step()                     | c += g, p moves, c *= m: ready or separate
    folded    | None or g | backward()                 | folded
              |           | fold()                     | folded: c += clipped g
              |           | zero_grad()                | folded: g dropped, what is in c stays
              |           | step()                     | as from new

After a tick a parameter is *separate* where its group has `carry="separate"`, a limit needs the
window's gradient, or a wrapper owns the memory of `.grad`; else it is *ready*. A step that ends in
an error leaves every state as it was.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from metronorm.errors import ConfigError
from metronorm.optim import checks
from metronorm.optim._torch_private import is_flattened
from metronorm.optim.beats import Beats
from metronorm.optim.blocks import (
    accumulate_in_float32,
    apply_momentum,
    local,
    sum_dtype,
    with_own_storage,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

# Keys of a parameter's state. Checkpoints have them, so the words stay.
SUM = "accumulated"  # c, of the parameter's shape; float32 for half precision
MOMENTUM = "momentum"  # what c was last multiplied by
OPEN = "open"  # whether c holds beats of an unfinished window
WRAPPED = "apart"  # whether c cannot be `.grad`, because a wrapper (DDP's buckets) has that memory


class Sums:
    """The sums of one optimizer, in its `state`. See the table above.

    Args:
        optimizer: the owner. It is held weakly, so that dropping it frees the sums at once.
    """

    _alive: ClassVar[weakref.WeakSet[Sums]] = weakref.WeakSet()

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.beats = Beats(self, optimizer)

    def make_known(self) -> None:
        """Let other optimizers find these sums, when the optimizer is complete."""
        self._alive.add(self)

    def state(self, parameter: Tensor) -> dict[str, Any]:
        """What the optimizer keeps for a parameter; an empty dictionary before its first tick."""
        optimizer = self._optimizer()
        # .get(), because the state of an optimizer makes an entry for whatever is looked up
        found = None if optimizer is None else optimizer.state.get(parameter)
        return found or {}

    def get(self, parameter: Tensor) -> Tensor | None:
        """The sum of a parameter, or None before its first tick.

        If `.grad` is now another tensor over the same memory, that tensor becomes the sum.
        """
        state = self.state(parameter)
        total: Tensor | None = state.get(SUM)
        if total is None or parameter.grad is None or parameter.grad is total:
            return total
        total = state[SUM] = self.beats.adopt(parameter, total)
        return total

    def is_open(self, parameter: Tensor) -> bool:
        """Whether the sum of a parameter holds beats of an unfinished window.

        The parameter must have a sum.
        """
        return bool(self.state(parameter)[OPEN]) or self.beats.added_by_hand(parameter)

    def set_open(self, parameter: Tensor) -> None:
        """A beat was added to the sum of a parameter."""
        state = self.state(parameter)
        if state:
            state[OPEN] = True

    def watch(self, parameter: Tensor) -> None:
        """Begin to accumulate a parameter's gradients, in float32 or better."""
        accumulate_in_float32(parameter)
        self.beats.watch(parameter)

    def add(self, parameter: Tensor, gradient: Tensor, momentum: float) -> None:
        """Add a gradient to the sum of a parameter. The first gradient becomes the sum.

        Args:
            parameter: its sum becomes open.
            gradient: of the parameter's shape.
            momentum: of its group. If it has changed, the sum is rescaled first.

        Raises:
            ConfigError: the momentum has risen from 0.
        """
        optimizer = self._optimizer()
        assert optimizer is not None
        state = optimizer.state[parameter]
        total = state.get(SUM)
        if total is None:
            own = with_own_storage(gradient)
            total = state[SUM] = own.to(sum_dtype(parameter))
            in_bucket = own is not gradient and local(gradient) is gradient  # DDP overwrites it
            state[WRAPPED] = in_bucket or is_flattened(parameter)
        else:
            if momentum != state[MOMENTUM]:
                apply_momentum(total, checks.rescaling(state[MOMENTUM], momentum))
            total.add_(gradient)
        state[MOMENTUM] = momentum
        state[OPEN] = True
        self.beats.mark(parameter, total)

    def carry(self, parameter: Tensor, *, separate: bool) -> None:
        """End a window: autograd adds the next one into the sum, unless that stays separate."""
        self.state(parameter)[OPEN] = False
        parameter.grad = None
        self.attach(parameter, separate=separate)

    def attach(self, parameter: Tensor, *, separate: bool) -> None:
        """Make the sum `.grad`, unless there is a gradient or the sum stays separate."""
        state = self.state(parameter)
        if SUM in state:
            self.beats.mark(parameter, state[SUM])
            if parameter.grad is None and not (state[WRAPPED] or separate):
                parameter.grad = state[SUM]

    def follow(self, parameter: Tensor, total: Tensor) -> Tensor:
        """The sum on the device of its parameter and in float32 or better.

        `model.to()` moves and converts parameters and `.grad`, but not the state of an optimizer.
        """
        dtype = sum_dtype(parameter)
        if total.dtype == dtype and total.device == parameter.device:
            return total
        in_grad, changed = parameter.grad is total, self.beats.changed(parameter)
        self.state(parameter)[SUM] = moved = total.to(parameter.device, dtype)
        if in_grad:
            parameter.grad = None
        accumulate_in_float32(parameter)
        if in_grad:
            parameter.grad = moved
        self.beats.mark(parameter, moved, changed=changed)
        return moved

    def begin_window(self, parameter: Tensor) -> None:
        """Count all that is in the sum of a parameter as part of earlier windows."""
        total = self.get(parameter)
        if total is not None:
            self.state(parameter)[OPEN] = False
            self.beats.mark(parameter, total)

    def in_other_optimizer(self, parameter: Tensor) -> Sums | None:
        """The sums of the other optimizer to which `.grad` belongs, or None."""
        for other in self._alive:
            total = None if other is self else other.get(parameter)
            if total is not None and total is parameter.grad:
                return other
        return None

    def take_over(self, parameters: list[Tensor]) -> list[Tensor]:
        """Which of new parameters have the sum of another optimizer in `.grad`, not a gradient.

        Raises:
            ConfigError: that sum holds beats of an unfinished window.
        """
        found = []
        for parameter in parameters:
            other = self.in_other_optimizer(parameter)
            if other is None:
                continue
            if other.is_open(parameter):
                raise ConfigError(
                    "a new optimizer can take over only between two windows",
                    got="beats of an unfinished window in the sum of another optimizer",
                    fix="step() of the other optimizer, or model.zero_grad(), which drops both",
                )
            found.append(parameter)
        return found


def may_have_moved(parameter: Tensor, total: Tensor) -> bool:
    """Whether the sum in `.grad` may need `Sums.follow`; a quick test of the dtype.

    The device needs no test: torch moves `.grad` with its parameter.
    """
    dtype = total.dtype
    return dtype is not parameter.dtype or dtype.itemsize < 4
