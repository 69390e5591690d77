"""Which tick was the first whose loss or gradient is not finite.

The device knows at once, and no parameter moves from then on. The host learns of it without
waiting: a copy of the tick's number is on its way to it after every tick, and it looks at whatever
has arrived.

| device | the host looks at | so it knows |
| --- | --- | --- |
| CPU | the same memory | in the tick itself |
| accelerator | a copy in pinned memory | some ticks later, or when it waits for the device anyway |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from metronorm.errors import DivergenceError

if TYPE_CHECKING:
    from torch import Tensor


class FirstNonfinite:
    """The number of the first tick that is not finite, and its loss; on one device.

    Args:
        device: where the loss and the parameters are.
    """

    def __init__(self, device: torch.device) -> None:
        self._tick = torch.zeros((), dtype=torch.int64, device=device)  # 0: none so far
        self._loss = torch.zeros((), dtype=torch.float32, device=device)
        self._arrived = self._tick
        if device.type != "cpu":
            self._arrived = torch.zeros((), dtype=torch.int64, pin_memory=device.type == "cuda")

    @property
    def seen(self) -> Tensor:
        """Whether there was such a tick: a 0-dim bool tensor on the device."""
        return self._tick != 0

    def note(self, tick: int, loss: Tensor, held: Tensor) -> None:
        """Remember a tick if it is the first one whose parameters were held.

        Args:
            tick: its number, from 1 on.
            loss: a scalar on the device.
            held: a 0-dim bool tensor on the device.
        """
        first = held & ~self.seen
        self._loss.copy_(torch.where(first, loss.float(), self._loss))
        self._tick.copy_(torch.where(first, tick, self._tick))
        if self._arrived is not self._tick:
            self._arrived.copy_(self._tick, non_blocking=True)

    def check(self, *, wait: bool = False) -> None:
        """Raise the error of the first such tick, if the host knows of one.

        Args:
            wait: for the device, so that the answer is certain.

        Raises:
            DivergenceError: names the tick.
        """
        tick = int(self._tick.item()) if wait else int(self._arrived.numpy())
        if tick:
            raise diverged(tick, float(self._loss.item()))


def diverged(tick: int, loss: float) -> DivergenceError:
    """What happened in a tick, and what a user of the command line can do about it."""
    got = f"a loss of {loss:g} in tick {tick}"
    if math.isfinite(loss):
        got = f"infinite or NaN elements in the gradient of tick {tick}, at a loss of {loss:g}"
    error = DivergenceError(
        "loss and gradient must stay finite",
        got=got,
        fix="from a checkpoint before that tick on with a lower learning rate: --resume RUN "
        "--from-tick N --optimizer.learning-rate; or a new run with a longer --optimizer.warmup",
    )
    error.tick = tick
    return error
