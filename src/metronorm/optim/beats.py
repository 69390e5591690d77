"""Which changes of a sum are beats: those that happen inside of backward().

Between ticks a sum is `.grad`, where any code can change it. torch counts a version for every
tensor, which shows *that* it was changed. *When* it was changed shows what that means:

    inside of backward()                   a beat. Autograd adds it and calls a hook of the
                                           parameter; or a wrapper (DDP, FSDP) adds it, and the
                                           version shows that at the end
    outside of backward()                  no beat: a clip, an all-reduce, zero_(). It changed
                                           earlier windows' gradients too: one warning
    outside, with no backward() at all     a beat: somebody adds gradients by hand
    since the last tick

What this object knows of the backward() that runs:

    state    | event                                    | next
    ---------|------------------------------------------|-------------------------------------
    outside  | first gradient of a backward()           | inside: what changed before is no beat
    inside   | another gradient of the same backward()  | inside
    inside   | a gradient of a nested backward()        | inside of the nested one
    inside   | end of the backward(), after DDP's work  | outside: what changed in it is a beat
    inside   | end of a nested backward()               | waits for the end of the outer one
"""

from __future__ import annotations

import logging
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.autograd.graph import increment_version

from metronorm.optim import checks
from metronorm.optim._torch_private import (
    OUTSIDE,
    at_end_of_backward,
    current_backward,
    running_node,
    version,
)
from metronorm.optim.blocks import accumulate_in_float32, local, same_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.autograd.graph import Node
    from torch.optim import Optimizer

    from metronorm.optim.sums import Sums

# How often to queue again at the end of a backward(). There a static graph of DDP queues its own
# work, and that queues more; our check must come after all of it.
REQUEUED = 3

_log = logging.getLogger("metronorm")


class Mark(NamedTuple):
    """A sum when it was last looked at."""

    total: Tensor
    part: Tensor  # of the sum, on this rank; it has the version
    version: int


class Beats:
    """Watches the parameters of an optimizer for beats, and opens the sums that have got some.

    Args:
        sums: those of the optimizer, held weakly.
        optimizer: when it is dropped, its sums are taken out of `.grad`, so that no other optimizer
            takes them for gradients.
    """

    def __init__(self, sums: Sums, optimizer: Optimizer) -> None:
        self._sums = weakref.ref(sums)
        self._marks: dict[Tensor, Mark] = {}
        self._hooks: list[Any] = []
        self._backward = OUTSIDE  # the one that is watched
        self.saw_backward = False  # since the last tick
        self._warned = False
        self.reached: set[Tensor] = set()  # by this backward(); an optimizer that asks fills it
        weakref.finalize(optimizer, _release, self._marks, self._hooks).atexit = False

    def watch(self, parameter: Tensor) -> None:
        """Begin to watch a parameter. It may be frozen, and be trained later."""
        this = weakref.ref(self)

        def on_gradient(parameter: Tensor) -> None:
            # runs for every gradient: what is rare is in other functions
            beats = this()
            if beats is None:
                return
            if current_backward() != beats._backward:
                beats._begin(parameter)
            mark = beats._marks.get(parameter)
            if mark is None:
                accumulate_in_float32(parameter)  # its dtype may have changed (model.bfloat16())
            elif parameter.grad is mark.total:
                beats._open(parameter)

        on_gradient.takes_parts = True  # type: ignore[attr-defined]  # see `loss/accumulation.py`
        frozen = not parameter.requires_grad
        parameter.requires_grad_(True)  # torch takes hooks of no other tensors
        self._hooks.append(parameter.register_post_accumulate_grad_hook(on_gradient))
        parameter.requires_grad_(not frozen)

    def mark(self, parameter: Tensor, total: Tensor, *, changed: bool = False) -> None:
        """Remember the version of a sum: changes count from here on.

        Args:
            parameter: of the sum.
            total: the sum.
            changed: whether it counts as changed already.
        """
        part = local(total)
        self._marks[parameter] = Mark(total, part, version(part) - changed)

    def forget(self, parameter: Tensor) -> None:
        """The parameter has no sum any more."""
        self._marks.pop(parameter, None)

    def end_window(self) -> None:
        """A tick: what comes next belongs to another window."""
        self.saw_backward = False
        self.reached.clear()

    def changed(self, parameter: Tensor) -> bool:
        """Whether the sum of a parameter was changed since `mark`."""
        mark = self._marks[parameter]
        return version(mark.part) != mark.version

    def added_by_hand(self, parameter: Tensor) -> bool:
        """Whether the sum was changed in a window without any backward()."""
        return not self.saw_backward and self.changed(parameter)

    def warn_of_changes(self, parameter: Tensor, total: Tensor) -> None:
        """Log a change of a sum since the last backward() of this window, which is no beat."""
        if self.saw_backward and self.changed(parameter):
            self._warn_once()
            self.mark(parameter, total)

    def hold_versions(self) -> Callable[[], None]:
        """For code that changes sums and puts them back: call the returned function after that."""
        held = [(each, mark.total, self.changed(each)) for each, mark in self._marks.items()]
        saw_backward = self.saw_backward

        def put_back() -> None:
            self.saw_backward = saw_backward
            for each in set(self._marks) - {each for each, *_ in held}:
                self.forget(each)
            for each, total, changed in held:
                self.mark(each, total, changed=changed)

        return put_back

    def adopt(self, parameter: Tensor, total: Tensor) -> Tensor:
        """The sum of a parameter, or `.grad` where that is another tensor over the same memory."""
        grad = parameter.grad
        if grad is None or grad is total or not same_memory(grad, total):
            return total
        mark = self._marks[parameter]
        part = local(grad)
        # A view shares the version of its base. `.data` has its own, which began at 0.
        before = version(part)
        increment_version(mark.part)
        is_view = version(part) != before
        self._marks[parameter] = Mark(grad, part, mark.version + 1 if is_view else 0)
        return grad

    def _warn_once(self) -> None:
        """Log that something other than backward() has changed a sum."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "a gradient was changed in place outside of backward() (clipped, reduced, zeroed): "
                "so was the accumulated sum, which holds the gradients of earlier ticks. "
                'carry="separate" keeps the sum separate'
            )

    def _begin(self, first: Tensor) -> None:
        """A backward() has begun, and has added the gradient of its first parameter."""
        self._backward = current_backward()
        if self._backward == OUTSIDE:  # other code calls the hook itself
            return
        if not self.saw_backward:
            self._check_copies(first)
        self.saw_backward = True
        self._check_all(but=first)
        self._check_at_end()

    def _check_copies(self, first: Tensor) -> None:
        """Refuse a `.grad` that is a copy of a sum; before it gets gradients of this window."""
        sums = self._sums()
        for parameter, mark in self._marks.items():
            grad = parameter.grad
            if grad is None or grad is mark.total or parameter is first:
                continue
            if sums is not None and sums.in_other_optimizer(parameter) is None:
                checks.check_no_copy(grad, mark.total)

    def _open(self, parameter: Tensor) -> None:
        sums = self._sums()
        if sums is not None:
            sums.set_open(parameter)

    def _check_at_end(self, more: int = REQUEUED) -> None:
        """At the end of the backward() that runs, after what others do there."""
        at_end_of_backward(partial(self._check_at_end, more - 1) if more else self._end)

    def _end(self) -> None:
        self._backward = OUTSIDE
        self._check_all()
        caller = running_node()
        if caller is None:
            self.reached.clear()
        else:  # a nested backward(), of a reentrant checkpoint: the beat ends with the outer one
            self._wait_for(next(node for node, _ in caller.next_functions if node is not None))

    def _wait_for(self, node: Node) -> None:
        """Check at the end of the backward() that is going to run this node."""

        def run(_: object) -> None:
            hook.remove()
            self._check_at_end()

        hook = node.register_prehook(run)

    def _check_all(self, but: Tensor | None = None) -> None:
        """Look for changes of all sums, at the beginning or at the end of a backward().

        Args:
            but: at the beginning, the parameter whose gradient was just added: a beat. Other
                changes came before and are none. At the end None: all changes are beats.
        """
        sums = self._sums()
        if sums is None:
            return
        for parameter, mark in list(self._marks.items()):
            if version(mark.part) == mark.version and parameter.grad is mark.total:
                continue
            total = sums.get(parameter)
            if total is None or parameter is but or not self.changed(parameter):
                continue
            self.mark(parameter, total)
            if parameter.grad is total:
                if but is None:
                    self._open(parameter)
                elif mark.part.device == local(but).device:
                    # on another device, the threads of this backward() may have added already
                    self._warn_once()


def _release(marks: dict[Tensor, Mark], hooks: list[Any]) -> None:
    """Take the sums of a dropped optimizer out of `.grad`."""
    for parameter, mark in marks.items():
        if parameter.grad is mark.total:
            parameter.grad = None
    for hook in hooks:
        hook.remove()
