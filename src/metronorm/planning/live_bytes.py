"""How many bytes the tensors take that are made in a block: exact, on every device.

torch's mode of dispatch, which sees every operation, is private; only this file uses it.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator


class LiveBytes(TorchDispatchMode):
    """Inside the block, counts the memory of tensors that are made there and are still alive.

    Attributes:
        now: bytes at this moment.
        peak: the most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
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
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()

        def dropped(_: Any) -> None:
            del self._alive[place]
            self.now -= size

        self._alive[place] = weakref.ref(storage, dropped)
        self.now += size
        self.peak = max(self.peak, self.now)


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            yield value.untyped_storage()
