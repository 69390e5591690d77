"""Forward and backward passes of a model, by hooks."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

from metronorm.clock import _torch_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metronorm.clock.hooks.collective import Collectives
    from metronorm.clock.hooks.phases import OpenPhase, OpenPhases


class Passes:
    """Opens and closes the phases `forward`, `evaluate` and `backward`.

    | state | event | next state | why |
    | --- | --- | --- | --- |
    | idle | the model is called | forward or evaluate | |
    | forward | the model is called | forward | it calls itself, so this is part of the pass |
    | forward | the outermost call ends | idle | an error ends it too; outputs get a gradient hook |
    | idle | a gradient reaches an output | backward | |
    | backward | the model is called | backward | checkpointing computes it again |
    | backward | the pass ends or fails | idle | see `_BackwardPass` |
    | any | `close_open_phases` | idle | an interruption left the pass without an end |

    Args:
        torch: the module `torch`.
        phases: opens and closes phases.
        collectives: is notified when the gradients are complete.
        before_forward: called before each forward pass of training.
        is_ignored: whether an event in the calling thread is to be ignored.
    """

    def __init__(
        self,
        torch: Any,
        phases: OpenPhases,
        collectives: Collectives,
        before_forward: Callable[[], None],
        is_ignored: Callable[[], bool],
    ) -> None:
        self._torch, self._phases, self._collectives = torch, phases, collectives
        self._before_forward, self._is_ignored = before_forward, is_ignored
        # running calls of the model, the innermost last; None for one that opened no phase
        self._calls: list[OpenPhase | None] = []
        self.backward: OpenPhase | None = None  # the phase of the running backward pass
        self.reduces = False  # whether the newest forward pass leads to a reduction of gradients
        self._has_trained = self._stopped = False

    def watch(self, model: Any) -> list[Callable[[], object]]:
        """Add hooks to `model`; the returned functions remove them."""
        self._on_gradient = Hook(self._torch, self._gradient_arrives)
        before = model.register_forward_pre_hook(Hook(self._torch, self._before_call), prepend=True)
        after = model.register_forward_hook(Hook(self._torch, self._after_call), always_call=True)
        undo = [before.remove, after.remove]
        compiled = _torch_private.compiled_call(model)
        if compiled is not None:  # by model.compile(), which leaves out or compiles hooks
            undo.append(self._watch_compiled(model, compiled))
        return undo

    def stop(self) -> None:
        """Ignore all later events: hooks on outputs stay in their graphs."""
        self.close_open_phases()
        self._stopped = True

    def close_open_phases(self) -> None:
        """Close the phases of passes that an interruption ended without a hook."""
        for phase in [*self._calls, self.backward]:
            if phase is not None:
                self._phases.close(phase)
        self._calls.clear()
        self.backward = None

    def _watch_compiled(self, model: Any, compiled: Callable[..., Any]) -> Callable[[], None]:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = None
            self._before_call(model, args)
            try:
                output = compiled(*args, **kwargs)
            finally:
                self._after_call(model, args, output)
            return output

        def undo() -> None:
            if _torch_private.compiled_call(model) is call:
                _torch_private.set_compiled_call(model, compiled)

        _torch_private.set_compiled_call(model, call)
        return undo

    def _before_call(self, model: Any, args: object) -> None:
        if not self._is_ignored():
            self._calls.append(self._open(model))

    def _open(self, model: Any) -> OpenPhase | None:
        if self._calls or self.backward is not None:
            return None
        if not self._torch.is_grad_enabled() or (self._has_trained and not model.training):
            return self._phases.open("evaluate")
        self._has_trained = self._has_trained or model.training
        self._before_forward()
        return self._phases.open("forward")

    def _after_call(self, model: Any, args: object, output: Any) -> None:
        phase = self._calls.pop() if self._calls and not self._is_ignored() else None
        if phase is None:
            return
        self._phases.close(phase)
        if phase.name == "forward":
            self.reduces = self._collectives.reduces()
            for tensor in tensors(output, self._torch.Tensor):
                if tensor.grad_fn is not None:
                    tensor.grad_fn.register_prehook(self._on_gradient)

    def _gradient_arrives(self, *_: object) -> None:
        """Runs in a thread of autograd on accelerators, while the thread of the loop waits."""
        if self._stopped or self.backward is not None:
            return
        backward = _BackwardPass(self, self._phases, self._collectives)
        try:
            self.queue_at_end(_AtEndOfGraph(self, backward))
        except RuntimeError:  # no backward pass runs: other code called the hook
            return
        backward.phase = self.backward = self._phases.open("backward")

    def queue_at_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the graph of the running backward pass is done.

        Raises:
            RuntimeError: no backward pass runs in this thread.
        """
        _torch_private.at_end_of_backward(self._torch, callback)


class _BackwardPass:
    """The phases of one backward pass.

    | state | event | next state | why |
    | --- | --- | --- | --- |
    | computing | the graph is done; a single process | closed | |
    | computing | the graph is done; several ranks | waiting | this rank has arrived |
    | waiting | the second callback after that | closed | other callbacks wait in between |
    | any | the pass fails | closed | torch drops the callback without a call |

    Waiting is the phase `communicate` where DDP reduces the gradients, else it is still `backward`.
    It takes two callbacks: DDP queues one that waits for its buckets, and that may queue another.
    """

    def __init__(self, passes: Passes, phases: OpenPhases, collectives: Collectives) -> None:
        self._passes, self._phases, self._collectives = passes, phases, collectives
        self._callbacks_left: int | None = None  # None while the graph computes
        self._waiting: OpenPhase | None = None
        self.phase: OpenPhase | None = None

    def graph_is_done(self) -> bool:
        """Go on by a state; whether another callback must be queued."""
        phase = self.phase
        if phase is None or self._passes.backward is not phase:  # `close_open_phases` was faster
            return False
        if self._callbacks_left is None:
            self._callbacks_left = 2 if self._collectives.arrive() else 0
            if self._callbacks_left and self._passes.reduces:
                self._phases.close(phase)
                self._waiting = self._collectives.begin()
        if self._callbacks_left:
            self._callbacks_left -= 1
            return True
        self.close()
        return False

    def close(self) -> None:
        """End the pass; a second call does nothing."""
        if self._waiting is not None:
            self._collectives.end(self._waiting)
            self._waiting = None
        if self.phase is not None:
            self._phases.close(self.phase)
            if self._passes.backward is self.phase:
                self._passes.backward = None
            self.phase = None


class _AtEndOfGraph:
    """The callback of a backward pass. Only torch refers to it, so it dies with a failed pass."""

    def __init__(self, passes: Passes, backward: _BackwardPass) -> None:
        self._passes, self._backward = passes, backward
        weakref.finalize(self, backward.close).atexit = False

    def __call__(self) -> None:
        if self._backward.graph_is_done():
            self._passes.queue_at_end(self)


class Hook:
    """A hook that `torch.compile` leaves out; in a copy or pickle of its module it does nothing.

    Args:
        torch: the module `torch`.
        act: the function to call; torch gets what it returns.
    """

    def __init__(self, torch: Any, act: Callable[..., Any]) -> None:
        self._is_compiling, self._act = torch.compiler.is_compiling, act

    def __call__(self, *args: Any) -> Any:
        """Call the function with what torch passes to a hook; None while torch compiles."""
        return None if self._is_compiling() else self._act(*args)

    def __reduce__(self) -> tuple[type[IdleHook], tuple[()]]:
        return IdleHook, ()


class IdleHook:
    """A hook that does nothing."""

    def __call__(self, *args: object) -> None:
        """Do nothing."""


def tensors(output: Any, kind: type) -> Iterator[Any]:
    """All objects of class `kind` in nested lists, tuples, dictionaries and dataclasses."""
    if isinstance(output, kind):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors(value, kind)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value, kind)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from tensors(getattr(output, field.name, None), kind)
