"""What a parameter has got in the window that a tick ends: which tensor holds its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metronorm.errors import ConfigError
from metronorm.optim import checks
from metronorm.optim.blocks import local
from metronorm.optim.sums import MOMENTUM, WRAPPED, may_have_moved

if TYPE_CHECKING:
    from torch import Tensor

    from metronorm.optim.checks import Group
    from metronorm.optim.sums import Sums


class Entry(NamedTuple):
    """A parameter that has a gradient in this window."""

    parameter: Tensor
    group: Group
    accumulated: Tensor | None  # c; None before the first tick
    new_gradient: Tensor | None  # not yet part of c; None if c holds the whole window
    window_started: bool  # c holds some of this window

    @property
    def newest(self) -> Tensor:
        """The tensor that holds the window's gradient, or the last part of it."""
        newest = self.accumulated if self.new_gradient is None else self.new_gradient
        assert newest is not None
        return newest


def find_entry(
    parameter: Tensor, group: Group, sums: Sums, *, separate: bool, ways_out: str
) -> Entry | None:
    """Find where the window's gradient of a parameter is; None if it has got none.

    Args:
        parameter: one of the group.
        group: with its hyper-parameters.
        sums: of the optimizer.
        separate: whether windows of this group are kept separate from the sum.
        ways_out: what to try instead of a loop that takes gradients away.

    Raises:
        ConfigError: a gradient that cannot be added, one that was taken away in the middle of a
            window, or another momentum while the sum holds beats. Nothing has changed.
    """
    total, gradient = sums.get(parameter), parameter.grad
    if gradient is not None:
        checks.check_gradient(parameter, gradient)
        checks.check_own_memory(gradient)
    if total is None:
        return None if gradient is None else Entry(parameter, group, None, gradient, False)
    if may_have_moved(parameter, total) or (gradient is not None and gradient is not total):
        total = sums.follow(parameter, total)
        gradient = parameter.grad
    state, started = sums.state(parameter), sums.is_open(parameter)
    if gradient is total:
        gradient = None
        sums.beats.warn_of_changes(parameter, total)
    elif started and not (state[WRAPPED] or separate):
        raise ConfigError(
            "gradients must not be taken away in the middle of a window: they are in the sum",
            got="a .grad set to None, or replaced, after a beat had been added to it",
            fix=f"model.zero_grad() right after step(), or not at all; {ways_out}",
        )
    if gradient is None and not started:
        return None
    if group["momentum"] != state[MOMENTUM]:
        if started:
            raise ConfigError(
                "momentum can change only while the sum holds no beat, because the sum was "
                "multiplied by the old momentum",
                got=f"{group['momentum']} after {state[MOMENTUM]}",
                fix='carry="separate", or model.zero_grad() after every step(): both keep gradients'
                " separate (one buffer)",
            )
        checks.rescaling(state[MOMENTUM], group["momentum"])
    return Entry(parameter, group, total, gradient, started)


def separate_bytes(window: list[Entry]) -> int:
    """Bytes of the gradients that are in no sum."""
    return sum(local(entry.newest).nbytes for entry in window if entry.new_gradient is not None)
