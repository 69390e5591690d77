"""Who comes late: the moment a rank has its gradients, before it waits for the others.

Ranks that train together leave the all-reduce of their gradients together, so their ticks take the
same time, whoever was slow. What differs is when each *arrives* there. Since all of them left the
last one together, the time from the tick's begin to the arrival can be compared between machines
whose clocks are not synchronised. What a rank has spent waiting for others before, in an earlier
collective of the same tick, is not counted: the arrival is in time of its own.

A rank arrives where the graph of a backward pass is done. No hook of the communication is taken for
that, so a loop may have one of its own, and gradients are summed exactly as without. What the pass
does from there until it returns is waiting:

- DDP starts an all-reduce per bucket while the pass runs, and waits for all of them at its end.
  That wait is the phase `communicate`.
- `fully_shard` gathers and reduces parameters by group. On processors each of these calls waits,
  and is the phase `communicate`; on accelerators they only enqueue.
- Loops that reduce gradients themselves do so after the pass, and have arrived before.

Who is late because of its data is told where ticks begin with the wait for it: with a watched
loader, or in `clock.ticks`. `FullyShardedDataParallel` has no place to see its waits at: on
processors they are in its arrivals, which then say nothing. Buffers that DDP broadcasts at the
begin of a forward pass (those of batch normalization) are waited for there, on processors, by all
ranks but the first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from metronorm.clock.hooks.retype import retype

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.clock.clock import Clock
    from metronorm.clock.hooks.phases import Phase, Phases


class Collectives:
    """Where one rank waits for the others.

    Args:
        clock: of this rank.
        phases: of the watch.
    """

    def __init__(self, clock: Clock, phases: Phases) -> None:
        self._clock, self._phases = clock, phases
        self._now, self._arrive = clock._now, clock.arrive
        self._since = self._waited_ns = self._tick = 0
        self._reducers: list[Any] = []

    def watch(self, model: Any) -> list[Callable[[], None]]:
        """Know its DDP, and see the collectives of `fully_shard`; what undoes it."""
        modules = list(model.modules())
        self._reducers = [each for each in modules if hasattr(each, "require_backward_grad_sync")]
        comms = {id(comm): comm for module in modules for comm in _comms_of(module)}
        return [self._watch(comm) for comm in comms.values()]

    def reduces(self) -> bool:
        """Whether the gradients of a forward pass made now are reduced; not inside no_sync()."""
        return any(each.require_backward_grad_sync for each in self._reducers)

    def arrive(self) -> bool:
        """This rank has gradients; whether there is anybody to wait for."""
        distributed = sys.modules["torch"].distributed
        there = distributed.is_available() and distributed.is_initialized()
        if not there or distributed.get_world_size() == 1:
            return False
        self._arrive(waited_ns=self._waited())
        return True

    def begin(self) -> Phase:
        """From now on this rank waits."""
        self._since = self._now()
        return self._phases.open("communicate")

    def end(self, phase: Phase) -> None:
        """And now it goes on."""
        self._phases.close(phase)
        self._waited_ns = self._waited() + self._now() - self._since

    def _waited(self) -> int:
        """Nanoseconds of the running tick."""
        if self._clock.tick != self._tick:
            self._tick, self._waited_ns = self._clock.tick, 0
        return self._waited_ns

    def _watch(self, comm: Any) -> Callable[[], None]:
        collectives, call = self, type(comm).__call__

        def timed(comm: Any, *args: Any, **kwargs: Any) -> Any:
            phase = collectives.begin()
            try:
                return call(comm, *args, **kwargs)
            finally:
                collectives.end(phase)

        return retype(comm, __call__=timed)


def _comms_of(module: Any) -> list[Any]:
    """The objects that make the collectives of one module; torch has no getter for them."""
    state = module._get_fsdp_state() if hasattr(module, "_get_fsdp_state") else None
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # torch 2.10
        groups = [getattr(state, "_fsdp_param_group", None)]
    found = []
    for group in groups:
        for name in ("_all_gather_comm", "_reduce_scatter_comm"):
            comm = getattr(group, name, None)
            if comm is not None:
                found.append(comm)
    return found
