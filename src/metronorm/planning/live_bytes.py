"""How many bytes the tensors take that are made in a block: exact, on every device.

torch's mode of dispatch, which sees every operation, is private; only this file uses it.
"""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.train.step import Step


class TooManyBytesError(Exception):
    """A block was left, as its tensors would take more than they may."""


class LiveBytes(TorchDispatchMode):
    """Inside the block, counts the memory of tensors that are made there and are still alive.

    Args:
        most: bytes at which the block is left.

    Attributes:
        now: bytes at this moment.
        peak: the most bytes so far.

    Raises:
        TooManyBytesError: there are more than `most`; one tensor at most is above them.
    """

    def __init__(self, most: float = math.inf) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._most = most
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation, and count what it has made."""
        found = func(*args, **(kwargs or {}))
        before = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(found):
            if storage._cdata not in before and storage._cdata not in self._alive:
                self._add(storage)
        if self.now > self._most:
            raise TooManyBytesError
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()

        def dropped(_: Any) -> None:
            del self._alive[place]
            self.now -= size

        self._alive[place] = weakref.ref(storage, dropped)
        self.now += size
        self.peak = max(self.peak, self.now)


def beat_bytes(step: Step, batch: Any, *, most: float = math.inf) -> int:
    """The most bytes that one beat makes, apart from gradients that stay. It leaves gradients.

    Args:
        step: of one process.
        batch: of the beat.
        most: bytes at which to give up.

    Raises:
        TooManyBytesError: there are more than `most`.
    """
    trained = [each for each in step.model.parameters() if each.requires_grad]
    with torch.compiler.set_stance("force_eager"):  # nobody sees what a compiled model makes
        if all(each.grad is None for each in trained):
            with LiveBytes(most + sum(each.nbytes for each in trained)):
                step.try_out(batch, step.precision)
        with LiveBytes(most) as made:  # now there are gradients, to which these are added
            step.try_out(batch, step.precision)
    peak: int = made.peak
    return peak


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            yield value.untyped_storage()
