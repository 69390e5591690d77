"""How a pass of one beat is made: on one process here, on several in `parallel.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metronorm.train.rank_beats import Beat
    from metronorm.train.task import Task


class Passes(Protocol):
    """Makes the forward pass of a beat. Without a tensor there is nothing to go back through.

    Attributes:
        reducing: the module whose backward pass averages gradients over ranks.
    """

    reducing: nn.Module

    def loss(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """The weighted loss.

        Args:
            beat: of this rank.
            weight: of its summed loss.
            last: whether it is the last of the window.
        """

    def accumulate(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """The same of a task that calls backward() itself: the loss is detached."""


class Alone:
    """The passes of one process.

    Args:
        task: whose loss.
        call: the model, or what `torch.compile` made of it.
    """

    def __init__(self, task: Task, call: nn.Module) -> None:
        self._task, self._call, self.reducing = task, call, call

    def loss(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`."""
        return self._task.loss(self._call, beat.batch) * weight

    def accumulate(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`."""
        assert self._task.accumulate is not None
        return self._task.accumulate(self._call, beat.batch, weight).detach()
