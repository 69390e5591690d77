"""Forward and backward passes of a model, by hooks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metronorm.clock.hooks.collective import Collectives
    from metronorm.clock.hooks.phases import Phase, Phases


class Passes:
    """Opens and closes the phases `forward`, `evaluate` and `backward`.

    Args:
        torch: the module.
        phases: where they are opened.
        collectives: told when gradients are there.
        begins: called before a forward pass of a training.
        away: whether what happens is to be overlooked.
    """

    def __init__(
        self,
        torch: Any,
        phases: Phases,
        collectives: Collectives,
        begins: Callable[[], None],
        away: Callable[[], bool],
    ) -> None:
        self._torch, self._phases, self._collectives = torch, phases, collectives
        self._begins, self._away = begins, away
        self._calls: list[Phase | None] = []  # that run; None: inside another, or computed again
        self.backward: Phase | None = None
        self.reduces = False  # the newest forward pass
        self._trained = self._stopped = False

    def watch(self, model: Any) -> list[Callable[[], object]]:
        """Hook up; what undoes it."""
        self._on_gradient = Hook(self._torch, self._gradient_arrives)
        before = model.register_forward_pre_hook(Hook(self._torch, self._before), prepend=True)
        after = model.register_forward_hook(Hook(self._torch, self._after), always_call=True)
        undo = [before.remove, after.remove]
        compiled = getattr(model, "_compiled_call_impl", None)
        if compiled is not None:  # by model.compile(), which leaves out or compiles hooks
            undo.append(self._watch_compiled(model, compiled))
        return undo

    def stop(self) -> None:
        """See nothing any more, though hooks are left in graphs."""
        self.settle()
        self._stopped = True

    def settle(self) -> None:
        """Close what an interruption has left open."""
        for phase in [*self._calls, self.backward]:
            if phase is not None:
                self._phases.close(phase)
        self._calls.clear()
        self.backward = None

    def _watch_compiled(self, model: Any, compiled: Callable[..., Any]) -> Callable[[], None]:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = None
            self._before(model, args)
            try:
                output = compiled(*args, **kwargs)
            finally:
                self._after(model, args, output)
            return output

        def undo() -> None:
            if model._compiled_call_impl is call:
                model._compiled_call_impl = compiled

        model._compiled_call_impl = call
        return undo

    def _before(self, model: Any, args: object) -> None:
        if not self._away():
            self._calls.append(self._open(model))

    def _open(self, model: Any) -> Phase | None:
        if self._calls or self.backward is not None:
            return None
        if not self._torch.is_grad_enabled() or (self._trained and not model.training):
            return self._phases.open("evaluate")
        self._trained = self._trained or model.training
        self._begins()
        return self._phases.open("forward")

    def _after(self, model: Any, args: object, output: Any) -> None:
        phase = self._calls.pop() if self._calls and not self._away() else None
        if phase is None:
            return
        self._phases.close(phase)
        if phase.name == "forward":
            self.reduces = self._collectives.reduces()
            for tensor in tensors(output, self._torch.Tensor):
                if tensor.grad_fn is not None:
                    tensor.grad_fn.register_prehook(self._on_gradient)

    def _gradient_arrives(self, *_: object) -> None:
        """Maybe in a thread of autograd's, while that of the loop waits for it."""
        if self._stopped or self.backward is not None:
            return
        end = _End(self, self._phases, self._collectives)
        try:
            self.queue(end)
        except RuntimeError:  # somebody else called the hook
            return
        end.phase = self.backward = self._phases.open("backward")

    def queue(self, callback: Callable[[], None]) -> None:
        """Call back when the graph of the running backward pass is done, and before it returns."""
        self._torch.autograd.Variable._execution_engine.queue_callback(callback)


class _End:
    """Ends a backward pass: called when its graph is done, or deleted, with that, if it failed."""

    def __init__(self, passes: Passes, phases: Phases, collectives: Collectives) -> None:
        self._passes, self._phases, self._collectives = passes, phases, collectives
        self._again = -1
        self._waiting: Phase | None = None
        self.phase: Phase | None = None

    def __call__(self) -> None:
        phase = self.phase
        if phase is None or self._passes.backward is not phase:  # settled
            return
        if self._again < 0:
            self._again = 2 if self._collectives.arrive() else 0
            if self._again and self._passes.reduces:
                self._phases.close(phase)
                self._waiting = self._collectives.begin()
        if self._again:  # behind those that wait for other ranks, and what they queue
            self._again -= 1
            self._passes.queue(self)
        else:
            self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """The pass is over; twice is once."""
        if self._waiting is not None:
            self._collectives.end(self._waiting)
            self._waiting = None
        if self.phase is not None:
            self._phases.close(self.phase)
            if self._passes.backward is self.phase:
                self._passes.backward = None
            self.phase = None


class Hook:
    """A hook that torch.compile leaves out; in a copy or a pickle of its module it does nothing."""

    def __init__(self, torch: Any, act: Callable[..., None]) -> None:
        self._compiling, self._act = torch.compiler.is_compiling, act

    def __call__(self, *args: Any) -> None:
        """As torch calls a hook; changes nothing."""
        if not self._compiling():
            self._act(*args)

    def __reduce__(self) -> tuple[type[Idle], tuple[()]]:
        return Idle, ()


class Idle:
    """A hook that does nothing."""

    def __call__(self, *args: object) -> None:
        """Nothing."""


def tensors(output: Any, kind: type) -> Iterator[Any]:
    """Those in an output: in lists, tuples, dictionaries and dataclasses, however deep."""
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
