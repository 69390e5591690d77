"""Record an existing PyTorch loop by hooks: its ticks and phases, without a change to the loop.

torch is used if the process has loaded it; this module does not import it.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from metronorm.clock import _torch_private
from metronorm.clock.hooks.collective import Collectives
from metronorm.clock.hooks.instance_override import describe_type
from metronorm.clock.hooks.loading import Batches, watch_loader
from metronorm.clock.hooks.passes import Hook, Passes
from metronorm.clock.hooks.phases import OpenPhases
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from metronorm.clock.hooks.phases import OpenPhase
    from metronorm.clock.hooks.watched_clock import WatchedClock


class Watch:
    """Finds ticks and phases of a loop; `Clock.watch` makes one, `remove()` removes its hooks.

    - `data`: the loop waits for a batch of `loader`.
    - `forward`: calls of `model`; `evaluate`: calls without gradients, or in evaluation mode (of
      a model that has been called in training mode).
    - `backward`: from the arrival of the gradient at the model's outputs to the end of the pass,
      with what checkpointing computes again. A loss that is computed outside of the model is
      `unattributed`, and so is its part of the backward pass.
    - `update`: steps of the optimizers.
    - `communicate`: waiting for other ranks; see `metronorm.clock.hooks.collective`.

    A tick is one step of the first optimizer. It ends where the next tick begins: where the loop
    asks for a batch or, without a loader, at the next forward pass. So values that are logged after
    the step belong to the tick of that step. The `beats` of a tick are the forward passes since the
    last tick. A step that `GradScaler` skips is no tick, and its beats count to the next tick.

    | tick | event | next | calls of the clock |
    | --- | --- | --- | --- |
    | none | a batch is asked for, a forward pass or a step begins | begun | `begin_tick` |
    | begun | a step of the first optimizer ends | stepped | |
    | begun | a step fails | begun | |
    | stepped | a batch is asked for, a forward pass or a first step begins | begun | `end_tick`, \
`begin_tick` |
    | stepped | the loop is left | none | `end_tick`, `pause` |
    | begun | the loop is left, with beats | none | `abandon_tick`, with its time kept |
    | begun | the loop is left, without beats | none | `abandon_tick` |
    | begun | `end_tick()`, `remove()` | none | `abandon_tick` |
    | none | the loop is left, without beats | none | `pause` |
    | none | `end_tick()`, `remove()`, with beats | none | `discard_time` |

    Beats without a step are kept when a loop is left, because gradients accumulate over the end of
    an epoch: the next step takes them. After `end_tick()` and `remove()` no step follows.

    Inside `clock.ticks(...)`, and without an optimizer, only phases are found: then the loop itself
    begins and ends ticks.

    Args:
        clock: an open clock.
        model: a `torch.nn.Module` as the loop calls it: compiled, or wrapped in DDP.
        optimizer: an optimizer of torch, or a list of several: a tick is a step of the first.
        loader: an object with `__iter__` and a class that is defined in Python. Until `remove()`
            it is an object of a subclass. Iterations of other loaders are not measured.

    Raises:
        ConfigError: one of the arguments cannot be watched.

    Only the thread that makes the watch is watched. Calls inside a larger compiled function are not
    seen: watch the model that `torch.compile` returns, and do not compile `step`.
    """

    def __init__(
        self, clock: WatchedClock, model: Any = None, optimizer: Any = None, loader: Any = None
    ) -> None:
        self._clock = clock
        self._torch = sys.modules.get("torch")
        self._thread = threading.get_ident()
        self.removed = False
        self._undo: list[Callable[[], object]] = []
        self._phases = OpenPhases(clock)
        self._collectives = Collectives(clock, self._phases)
        self._passes = Passes(
            self._torch, self._phases, self._collectives, self._before_forward, self.is_ignored
        )
        # running steps, the innermost last; None for a step inside another step
        self._steps: list[OpenPhase | None] = []
        self._closures = 0  # running calls of closures that `step` got
        self._closure_failed = False  # in the running step
        self._first_stepped = False  # the first optimizer, in the running step
        self._has_optimizer = False
        self._has_model = model is not None
        self._begun = self._stepped = False
        self._beats = 0
        try:
            if model is not None:
                self._watch_model(model)
            for each in optimizer if isinstance(optimizer, list | tuple) else [optimizer]:
                if each is not None:
                    self._watch_optimizer(each)
            if loader is not None:
                self._undo.append(watch_loader(self, loader))
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def data(self, loader: Iterable[Any]) -> Iterator[Any]:
        """`for batch in watch.data(loader)`, for lists, generators and other built-in types."""
        return Batches(self, lambda: iter(loader))

    def end_tick(self) -> None:
        """End the tick if its step is done, because other code begins ticks from now on."""
        if not self.removed:
            self._is_stepping()
            self._end_loop(no_step_follows=True)

    def remove(self) -> None:
        """Remove all hooks, and end the tick if its step is done; twice does nothing."""
        if self.removed:
            return
        for undo in self._undo:
            undo()
        self._passes.stop()
        self._is_stepping()
        self._end_loop(no_step_follows=True)
        self.removed = True

    # --- what is watched ------------------------------------------------------------------------

    def _watch_model(self, model: Any) -> None:
        torch = self._torch
        if (
            torch is None
            or not isinstance(model, torch.nn.Module)
            or isinstance(model, torch.jit.ScriptModule)
        ):
            raise ConfigError(
                "a watched model must be a torch.nn.Module, and not scripted",
                got=describe_type(model),
            )
        self._undo += self._passes.watch(model)
        self._undo += self._collectives.watch(model)

    def _watch_optimizer(self, optimizer: Any) -> None:
        inner = optimizer
        # wrappers have the methods of an optimizer, but not always the attributes for hooks
        while inner is not None and not _torch_private.takes_step_hooks(inner):
            inner = getattr(inner, "optimizer", None)
        if inner is None:
            raise ConfigError(
                "a watched optimizer must be a torch.optim.Optimizer", got=describe_type(optimizer)
            )
        first, self._has_optimizer = not self._has_optimizer, True
        before = inner.register_step_pre_hook(Hook(self._torch, partial(self._before_step, first)))
        after = inner.register_step_post_hook(Hook(self._torch, partial(self._after_step, first)))
        self._undo += [before.remove, after.remove]

    # --- ticks ----------------------------------------------------------------------------------

    def is_ignored(self) -> bool:
        """Whether the calling thread is not the watched one, or the watch was removed."""
        return self.removed or threading.get_ident() != self._thread

    def _makes_ticks(self) -> bool:
        """Whether the watch begins and ends ticks, not a loop over `clock.ticks`."""
        return self._has_optimizer and not self._clock.in_loop

    def _begin(self) -> None:
        """Begin a tick, if none is begun."""
        if not self._begun and self._makes_ticks():
            self._clock.begin_tick()
            self._begun = True

    def _end(self) -> None:
        """End the tick, if its step is done."""
        if self._stepped:
            if self._begun and self._makes_ticks():
                self._clock.end_tick(beats=max(self._beats, 1))
            self._begun = self._stepped = False
            self._beats = 0

    def _end_loop(self, *, no_step_follows: bool = False) -> None:
        """The loop over the batches is left; see the table."""
        self._end()
        if self._makes_ticks():
            is_over = no_step_follows or not self._beats
            if self._begun:  # without a step
                self._begun = False
                self._clock.abandon_tick(keep_time=not is_over)
            elif is_over and self._beats:
                self._clock.discard_time()
            elif is_over:
                self._clock.pause()

    # --- data -----------------------------------------------------------------------------------

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function`, which waits for a batch, and return the batch.

        An exception, such as `StopIteration`, ends the loop and is raised again.
        """
        if self.is_ignored():
            return function(*args)
        self._passes.close_open_phases()
        between = not self._is_stepping()  # a closure may ask for its batches itself
        if between:
            self._end()
            self._begin()
        phase = self._phases.open("data")
        try:
            batch = function(*args)
        except BaseException:
            self._phases.close(phase)
            if between:
                self._end_loop()
            raise
        self._phases.close(phase)
        return batch

    def on_batch(self) -> None:
        """A batch has arrived: without a watched model, this is a beat."""
        if not self._has_model and not self.is_ignored():
            self._beats += 1

    def on_loop_left(self) -> None:
        """The loop dropped its iterator before the loader was exhausted."""
        if self._stepped and not self.is_ignored():
            self._end_loop()

    # --- forward --------------------------------------------------------------------------------

    def _before_forward(self) -> None:
        if not self._is_stepping():
            self._end()
            self._begin()
        self._beats += 1

    # --- update ---------------------------------------------------------------------------------
    #
    # torch calls a hook before a step and one after it, but none when the step raises. A batch or a
    # forward pass that comes between the two is either in the closure of the running step, or the
    # step has failed and the loop goes on. To know which, closures are counted while they run.
    # One case stays open: a step that fails outside of its closure and is repeated at once looks
    # like a step inside a step, so its beats count to the next tick. A wrapper of `step` would
    # see the failure, but schedulers and accelerate replace `step` too and may drop the wrapper.

    def _before_step(self, first: bool, optimizer: Any, args: Any, kwargs: Any) -> Any:
        """Hook before `step(*args, **kwargs)`; torch takes the arguments that it returns."""
        if self.is_ignored():
            return None
        if self._steps and not self._closure_failed:
            self._steps.append(None)  # a step inside another one, such as super().step()
        else:
            self._close_failed_step()
            if self._passes.backward is None:
                self._passes.close_open_phases()
            if first:
                self._end()
            self._begin()
            self._steps.append(self._phases.open("update"))
        return self._count_closure(args, kwargs)

    def _count_closure(self, args: Any, kwargs: Any) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure) or isinstance(closure, _CountedClosure):
            return None
        counted = _CountedClosure(self, closure)
        if len(args) > 1:
            return (args[0], counted, *args[2:]), kwargs
        return args, {**kwargs, "closure": counted}

    def _after_step(self, first: bool, *_: object) -> None:
        if self.is_ignored():
            return
        self._first_stepped = self._first_stepped or first
        phase = self._steps.pop() if self._steps else None
        if phase is not None:
            self._phases.close(phase)
        if not self._steps:
            self._stepped = self._stepped or self._first_stepped
            self._first_stepped = self._closure_failed = False

    def _is_stepping(self) -> bool:
        """Whether a step runs; a step that has failed is closed."""
        if self._steps and not self._closures:
            self._close_failed_step()
        return bool(self._steps)

    def _close_failed_step(self) -> None:
        for phase in self._steps:
            if phase is not None:
                self._phases.close(phase)
        self._steps.clear()
        self._first_stepped = self._closure_failed = False

    def run_closure(self, closure: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the closure that an optimizer's `step` got, and return what it returns."""
        self._closures += 1
        try:
            return closure(*args, **kwargs)
        except BaseException:
            self._closure_failed = True  # and so has the step
            raise
        finally:
            self._closures -= 1


class _CountedClosure:
    """The closure of a step, counted by the watch while it runs."""

    def __init__(self, watch: Watch, closure: Callable[..., Any]) -> None:
        self._watch, self._closure = watch, closure

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._watch.run_closure(self._closure, *args, **kwargs)
