"""What happens inside ticks of a training in this process: it is stopped, a disk fills up."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from metronorm.train.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def at_every_tick(action: Callable[[int], object]) -> Iterator[None]:
    """Do something inside every tick of trainings in this process."""
    tick = Step.tick

    def acting(self: Step, clock: Any, *arguments: Any, **options: Any) -> None:
        tick(self, clock, *arguments, **options)
        action(clock.tick)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "tick", acting)
        yield


def stop_at(tick: int) -> Any:
    """Stop a training with SIGTERM in this tick."""
    return at_every_tick(lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == tick else None)
