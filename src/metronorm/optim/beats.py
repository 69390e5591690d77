"""Which changes of a sum are beats: those that happen inside of backward().

Between ticks a sum is `.grad`, where anybody can change it. torch counts a version for every
tensor, which tells *that* it was changed; where it was tells what that means:

    inside of backward()                 a beat: autograd's, told by a hook of the parameter, or
                                         another's (DDP, FSDP), told by the version at the end
    outside                              no beat: a clip, an all-reduce, zero_(). What is carried
                                         was changed as well, which is warned of once
    outside, and no backward() at all    a beat: gradients that are added by hand
    since the last tick
"""

from __future__ import annotations

import logging
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.autograd.graph import increment_version

from metronorm.optim import _torch_private, checks
from metronorm.optim.blocks import accumulate_in_float32, local, same_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.autograd.graph import Node

    from metronorm.optim.state import Sums

    # of every parameter its sum, the part of that on this rank, and its version when last looked at
    Last = dict[Tensor, tuple[Tensor, Tensor, int]]

LAST = 3  # in its callbacks, static graphs of DDP ask for others, and those for the last

_log = logging.getLogger("metronorm")


class Beats:
    """Watches the parameters of an optimizer for beats; whether some are in a sum is its `open`.

    Args:
        sums: the optimizer. When it is dropped its sums are taken out of `.grad`, so that no other
            optimizer takes them for gradients.
    """

    def __init__(self, sums: Sums) -> None:
        self._sums = weakref.ref(sums)
        self._last: Last = {}
        self._hooks: list[Any] = []
        self._backward = _torch_private.OUTSIDE  # which is watched
        self.watched = False  # whether there was a backward() since the last tick
        self._warned = False
        self.reached: set[Tensor] = set()  # parameters, by this backward(), if the optimizer asks
        weakref.finalize(sums, _let_go, self._last, self._hooks).atexit = False

    def watch(self, parameter: Tensor) -> None:
        """Begin to watch a parameter, which can be frozen for now."""
        this, current_backward = weakref.ref(self), _torch_private.current_backward

        def landed(parameter: Tensor) -> None:  # for every gradient: what is seldom stands apart
            beats = this()
            if beats is None:
                return
            if current_backward() != beats._backward:
                beats._begin(parameter)
            last = beats._last.get(parameter)
            if last is None:
                accumulate_in_float32(parameter)  # of another dtype since model.bfloat16(), say
            elif parameter.grad is last[0]:
                beats._open(parameter)

        frozen = not parameter.requires_grad
        parameter.requires_grad_(True)
        self._hooks.append(parameter.register_post_accumulate_grad_hook(landed))
        parameter.requires_grad_(not frozen)

    def look(self, parameter: Tensor, carried: Tensor, *, changed: bool = False) -> None:
        """Take a sum for what it is now: from here on, changes count; or say that one has."""
        part = local(carried)
        self._last[parameter] = carried, part, part._version - changed

    def forget(self, parameter: Tensor) -> None:
        """The parameter has no sum any more."""
        self._last.pop(parameter, None)

    def tick(self) -> None:
        """A window ends."""
        self.watched = False
        self.reached.clear()

    def changed(self, parameter: Tensor) -> bool:
        """Whether a sum was changed since it was last looked at."""
        _, part, version = self._last[parameter]
        return part._version != version

    def open(self, parameter: Tensor, state: dict[str, Any]) -> bool:
        """Whether beats are in the sum since the last tick."""
        return bool(state["open"]) or (not self.watched and self.changed(parameter))

    def hold(self) -> Callable[[], None]:
        """For who changes sums and then puts them back: call what this returns after that."""
        held = [(each, c, self.changed(each)) for each, (c, *_) in self._last.items()]
        seen = self.watched

        def put_back() -> None:
            self.watched = seen
            for each in set(self._last) - {each for each, *_ in held}:
                self.forget(each)
            for each, c, changed in held:
                self.look(each, c, changed=changed)

        return put_back

    def adopted(self, parameter: Tensor, carried: Tensor) -> Tensor:
        """The sum; if `.grad` is now another tensor over its memory, that one."""
        grad = parameter.grad
        if grad is None or grad is carried or not same_memory(grad, carried):
            return carried
        _, old, version = self._last[parameter]
        part = local(grad)
        before = part._version
        increment_version(old)
        shared = part._version != before  # a view; else its versions began with it, at 0
        self._last[parameter] = grad, part, version + 1 if shared else 0
        return grad

    def warn(self) -> None:
        """Something else than backward() has changed a sum."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "a gradient was changed in place outside of backward() (clipped, reduced, zeroed): "
                'so was what it carries from tick to tick. carry="separate" keeps that apart'
            )

    def _begin(self, first: Tensor) -> None:
        """A backward() has begun: the gradient of the first parameter has been added."""
        self._backward = _torch_private.current_backward()
        if self._backward == _torch_private.OUTSIDE:  # somebody calls hooks by himself
            return
        if not self.watched:
            self._check_copies(first)
        self.watched = True
        self._sweep(but=first)
        self._look_at_end()

    def _check_copies(self, first: Tensor) -> None:
        """Refuse what is carried a second time in `.grad`; seen before a window's own gradients."""
        sums = self._sums()
        for parameter, (carried, *_) in self._last.items():
            grad = parameter.grad
            if grad is None or grad is carried or parameter is first:
                continue
            if sums is not None and sums._of_another(parameter) is None:
                checks.check_no_copy(grad, carried)

    def _open(self, parameter: Tensor) -> None:
        sums = self._sums()
        if sums is not None:
            sums.state[parameter]["open"] = True

    def _look_at_end(self, more: int = LAST) -> None:
        """At the end of the running backward(), after what others do there."""
        again = partial(self._look_at_end, more - 1) if more else self._end
        _torch_private.at_end_of_backward(again)

    def _end(self) -> None:
        self._backward = _torch_private.OUTSIDE
        self._sweep()
        around = _torch_private.running_node()
        if around is None:
            self.reached.clear()
        else:  # of a reentrant checkpoint, say: the beat ends with the outer one
            self._follow(next(node for node, _ in around.next_functions if node is not None))

    def _follow(self, node: Node) -> None:
        """Look at the end of the backward() that is about to run a node."""

        def run(_: object) -> None:
            hook.remove()
            self._look_at_end()

        hook = node.register_prehook(run)

    def _sweep(self, but: Tensor | None = None) -> None:
        """Look at all sums: before the gradients of a backward(), one of which is there, or after.

        What changed before is no beat, what changed in it is one.
        """
        sums = self._sums()
        if sums is None:
            return
        for parameter, (carried, part, version) in list(self._last.items()):
            if part._version == version and parameter.grad is carried:
                continue
            found = sums._sum(parameter)
            if found is None or parameter is but or not self.changed(parameter):
                continue
            self.look(parameter, found)
            if parameter.grad is found:
                if but is None:
                    self._open(parameter)
                elif part.device == local(but).device:  # other devices' are not in step
                    self.warn()


def _let_go(last: Last, hooks: list[Any]) -> None:
    for parameter, (carried, *_) in last.items():
        if parameter.grad is carried:
            parameter.grad = None
    for hook in hooks:
        hook.remove()
