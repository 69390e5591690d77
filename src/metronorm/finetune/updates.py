"""How many updates are lost to rounding: a metric, measured every N ticks.

An element has lost its update where the gradient is not zero and the update has changed nothing,
because half the distance to the next number of its dtype is larger. Of bfloat16 weights of 0.4 and
an update of 1e-4 that is every element, at every tick.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from metronorm.train.task import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from metronorm.train.task import Moment

ELEMENTS = 1 << 18  # that are looked at: a share to 0.2 %, in a millisecond


def lost_updates(
    parameters: Callable[[], Mapping[str, nn.Parameter]], every: int = 50, elements: int = ELEMENTS
) -> Hook:
    """A hook that logs `lost_updates`, the share of elements whose update was rounded away.

    Args:
        parameters: gives what trains, by name; called at each measurement.
        every: ticks between two measurements.
        elements: how many to look at: all, or every n-th of each parameter. Of a sharded model,
            those on this rank.
    """
    watch = UpdateWatch(parameters, elements)
    return Hook(every, watch.log, phase="update", around=watch.around)


class UpdateWatch:
    """Compares parameters before and after an update.

    Args:
        parameters: gives what trains, by name.
        elements: how many to look at.
    """

    def __init__(
        self, parameters: Callable[[], Mapping[str, nn.Parameter]], elements: int = ELEMENTS
    ) -> None:
        self._parameters, self._elements = parameters, elements
        self._before: list[tuple[Tensor, Tensor, Tensor]] = []  # (now, before, has a gradient)

    @contextlib.contextmanager
    def around(self, moment: Moment) -> Iterator[None]:
        """Remember the elements when the optimizer begins its step."""
        handle = moment.optimizer.register_step_pre_hook(lambda *_: self.remember())
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the elements that are looked at, and note which of them have a gradient."""
        self._before = []
        trained = [each for each in self._parameters().values() if each.grad is not None]
        total = sum(_local(each).numel() for each in trained)
        step = max(1, -(-total // self._elements))
        for each in trained:
            assert each.grad is not None
            now = _local(each.detach()).reshape(-1)[::step]
            slope = _local(each.grad).reshape(-1)[::step]
            self._before.append((now, now.clone(), slope != 0))

    @torch.no_grad()
    def share(self) -> float | None:
        """The share of what was remembered with a gradient and is as it was; None without any."""
        due = lost = 0
        for now, before, has_gradient in self._before:
            due += int(has_gradient.sum())
            lost += int(((now == before) & has_gradient).sum())
        self._before = []
        return lost / due if due else None

    def log(self, moment: Moment) -> None:
        """Log the share at the end of the tick."""
        share = self.share()
        if share is not None:
            moment.clock.log(lost_updates=share)


def _local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that lies on this rank; any other tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
