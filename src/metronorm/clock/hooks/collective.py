"""Stragglers: when each rank has its gradients, before it waits for the others.

Ranks that train together leave the all-reduce of their gradients together, so all of them measure
the same time for a tick, and that does not show which rank was slow. The time of *arrival* at the
all-reduce does. All ranks left the last all-reduce at the same moment, so the time from the begin
of a tick to the arrival can be compared between machines with clocks that are not synchronised. The
arrival is in the rank's own time: waiting in an earlier collective of the tick is subtracted.

A rank arrives when the graph of its backward pass is done. The watch registers no communication
hook: a loop may register its own, and gradients are summed exactly as without the watch. From the
arrival until the pass returns the rank waits:

- DDP starts an all-reduce per bucket during the pass and waits for all of them at the end of the
  pass. That wait is the phase `communicate`.
- `fully_shard` gathers and reduces parameters by group. On CPUs each of these calls waits and is
  the phase `communicate`; on accelerators the calls only add work to a stream.
- A loop that reduces gradients itself does so after the pass, when the rank has arrived.

A rank that waits for data is late too. This shows where a tick begins with the wait for data: with
a watched loader, or in `clock.ticks`. Two waits cannot be measured. `FullyShardedDataParallel` has
no object that makes its collectives, so on CPUs its arrivals contain the waits and mean nothing.
DDP broadcasts buffers (of batch normalization) at the begin of a forward pass, and on CPUs all
ranks but the first wait there.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

from metronorm.clock import _torch_private

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.clock.hooks.phases import OpenPhase, OpenPhases
    from metronorm.clock.hooks.watched_clock import WatchedClock


class Collectives:
    """Measures where this rank waits for other ranks.

    Args:
        clock: the clock of this rank.
        phases: opens and closes phases.
    """

    def __init__(self, clock: WatchedClock, phases: OpenPhases) -> None:
        self._clock, self._phases = clock, phases
        self._since_ns = 0  # begin of the running wait
        self._waited_ns = self._tick = 0  # finished waits, of the tick with this number
        self._reducers: list[Any] = []

    def watch(self, model: Any) -> list[Callable[[], None]]:
        """Find DDP in `model` and measure collectives of `fully_shard`; the result undoes it."""
        modules = list(model.modules())
        self._reducers = [each for each in modules if hasattr(each, "require_backward_grad_sync")]
        found = itertools.chain.from_iterable(map(_torch_private.parameter_groups, modules))
        groups = {id(group): group for group in found}
        return [
            self._measure(group, name)
            for group in groups.values()
            for name in _torch_private.COLLECTIVES
            if getattr(group, name, None) is not None
        ]

    def reduces(self) -> bool:
        """Whether DDP reduces the gradients of a forward pass made now; not inside no_sync()."""
        return any(each.require_backward_grad_sync for each in self._reducers)

    def arrive(self) -> bool:
        """Record that this rank has its gradients; whether there are other ranks."""
        distributed = sys.modules["torch"].distributed
        there = distributed.is_available() and distributed.is_initialized()
        if not there or distributed.get_world_size() == 1:
            return False
        self._clock.arrive(waited_ns=self._waited())
        return True

    def begin(self) -> OpenPhase:
        """Begin to wait for other ranks."""
        self._since_ns = self._clock.now()
        return self._phases.open("communicate")

    def end(self, phase: OpenPhase) -> None:
        """End the wait that `begin` began."""
        self._phases.close(phase)
        self._waited_ns = self._waited() + self._clock.now() - self._since_ns

    def _waited(self) -> int:
        """Nanoseconds that this rank waited in the running tick."""
        if self._clock.tick != self._tick:
            self._tick, self._waited_ns = self._clock.tick, 0
        return self._waited_ns

    def _measure(self, group: Any, name: str) -> Callable[[], None]:
        comm = getattr(group, name)
        measured = _MeasuredComm(self, comm)
        setattr(group, name, measured)

        def undo() -> None:
            if getattr(group, name) is measured:
                setattr(group, name, comm)
            measured.stop()

        return undo


class _MeasuredComm:
    """Wraps an object that makes collectives for `fully_shard`, and measures its calls."""

    def __init__(self, collectives: Collectives, comm: Any) -> None:
        self._collectives: Collectives | None = collectives
        self._comm = comm

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        collectives = self._collectives
        if collectives is None:
            return self._comm(*args, **kwargs)
        phase = collectives.begin()
        try:
            return self._comm(*args, **kwargs)
        finally:
            collectives.end(phase)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # torch asks with isinstance() which kind it is
        return type(self._comm)

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return _unwrapped, (self._comm,)  # copies are not measured

    def stop(self) -> None:
        """Measure no more: another wrapper around this one may stay."""
        self._collectives = None


def _unwrapped(comm: Any) -> Any:
    return comm
