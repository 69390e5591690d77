"""One line for a loop that exists: its ticks and phases, by hooks that leave the loop as it is.

torch is used where the process has loaded it, and not imported.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from metronorm.clock.hooks.collective import Collectives
from metronorm.clock.hooks.loading import Batches, watch_loader
from metronorm.clock.hooks.passes import Hook, Passes
from metronorm.clock.hooks.phases import Phases
from metronorm.clock.hooks.retype import kind_of
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from metronorm.clock.clock import Clock
    from metronorm.clock.hooks.phases import Phase


class Watch:
    """Finds what a loop does; `Clock.watch` makes one. `remove()` takes all hooks away again.

    - `data`: the loop waits for a batch of `loader`.
    - `forward`: calls of `model`; `evaluate`: those without gradients, or in evaluation mode (of
      a model that has been called in training mode).
    - `backward`: from the gradient's arrival at the model's outputs to the end of the pass, with
      what is computed again in it (checkpointing). A loss that is computed outside of the model is
      `unattributed`, and so is its part of the backward pass.
    - `update`: steps of the optimizers.
    - `communicate`: waiting for other ranks; see `metronorm.clock.hooks.collective`.

    A tick is one step of the first optimizer. It ends where the next begins: where the loop asks
    for a batch or, without a loader, at the next forward pass; so what is logged behind the step is
    logged of its tick. Its `beats` are forward passes, those since the last tick. A step that a
    `GradScaler` leaves out is none, and its beats are the next one's. When the loader is exhausted,
    or its loop is left, the clock is paused; not if there are beats left that no step has taken:
    then that tick goes on.

    Within `clock.ticks(...)`, and without an optimizer, only phases are found: ticks are somebody
    else's.

    Args:
        clock: entered.
        model: a `torch.nn.Module`, as the loop calls it: compiled, or wrapped in DDP.
        optimizer: of torch, or several: a tick is a step of the first.
        loader: an object with `__iter__` whose class is defined in Python. Until `remove()`, it is
            of a subclass of its own. Iterating other loaders is nothing to the watch.

    Raises:
        ConfigError: something that cannot be watched.

    All of it is about one thread, that which makes the watch. What is inside a larger compiled
    function is not seen: watch the model that `torch.compile` gives, and leave `step` as it is.
    """

    def __init__(
        self, clock: Clock, model: Any = None, optimizer: Any = None, loader: Any = None
    ) -> None:
        self._clock = clock
        self._torch = sys.modules.get("torch")
        self._thread = threading.get_ident()
        self.removed = False
        self._undo: list[Callable[[], object]] = []
        self._phases = Phases(clock)
        self._collectives = Collectives(clock, self._phases)
        self._passes = Passes(
            self._torch, self._phases, self._collectives, self._before_forward, self.away
        )
        self._steps: list[Phase | None] = []  # that run; None: inside another
        self._moved = False  # by the first optimizer, in one of them
        self._step_code: Any = None
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
        """`for batch in watch.data(loader)`, for what cannot be watched: lists, generators."""
        return Batches(self, lambda: iter(loader))

    def end_tick(self) -> None:
        """Other ticks begin; one whose step is done ends here."""
        if not self.removed:
            self._is_stepping()
            self._rest(for_good=True)

    def remove(self) -> None:
        """Take all hooks away. A tick whose step is done ends here."""
        if self.removed:
            return
        for undo in self._undo:
            undo()
        self._passes.stop()
        self._is_stepping()
        self._rest(for_good=True)
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
                "a watched model must be a torch.nn.Module, and not scripted", got=kind_of(model)
            )
        self._undo += self._passes.watch(model)
        self._undo += self._collectives.watch(model)

    def _watch_optimizer(self, optimizer: Any) -> None:
        inner = optimizer
        # wrappers have the methods of an optimizer, but not always what these need
        while inner is not None and not hasattr(inner, "_optimizer_step_pre_hooks"):
            inner = getattr(inner, "optimizer", None)
        if inner is None:
            raise ConfigError(
                "a watched optimizer must be a torch.optim.Optimizer", got=kind_of(optimizer)
            )
        first, self._has_optimizer = not self._has_optimizer, True
        before = inner.register_step_pre_hook(Hook(self._torch, partial(self._before_step, first)))
        after = inner.register_step_post_hook(Hook(self._torch, partial(self._after_step, first)))
        self._undo += [before.remove, after.remove]

    # --- ticks ----------------------------------------------------------------------------------

    def away(self) -> bool:
        """Whether what happens is to be overlooked."""
        return self.removed or threading.get_ident() != self._thread

    def _ticks(self) -> bool:
        """Whether it is the watch that begins and ends ticks."""
        return self._has_optimizer and not self._clock._looping

    def _begin(self) -> None:
        """What comes now belongs to a tick: the one that runs, or the next."""
        if not self._begun and self._ticks():
            self._clock.begin_tick()
            self._begun = True

    def _end(self) -> None:
        """The tick that runs is over, if its step is done."""
        if self._stepped:
            if self._begun and self._ticks():
                self._clock.end_tick(beats=max(self._beats, 1))
            self._begun = self._stepped = False
            self._beats = 0

    def _rest(self, *, for_good: bool = False) -> None:
        """The loop over the batches is left."""
        self._end()
        if self._ticks():
            is_over = for_good or not self._beats
            if self._begun:  # and has no step
                self._begun = False
                self._clock._abandon_tick(keep_time=not is_over)
            elif is_over and self._beats:  # which no step has followed
                self._clock._drop_time()
            elif is_over:
                self._clock.pause()

    # --- data -----------------------------------------------------------------------------------

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what gets a batch; without one, the loop is left."""
        if self.away():
            return function(*args)
        self._passes.settle()
        between = not self._is_stepping()  # a closure may get its batches itself
        if between:
            self._end()
            self._begin()
        phase = self._phases.open("data")
        try:
            batch = function(*args)
        except BaseException:
            self._phases.close(phase)
            if between:
                self._rest()
            raise
        self._phases.close(phase)
        return batch

    def got(self) -> None:
        """There was one."""
        if not self._has_model and not self.away():
            self._beats += 1

    def left(self) -> None:
        """Nobody wants another."""
        if self._stepped and not self.away():
            self._rest()

    # --- forward --------------------------------------------------------------------------------

    def _before_forward(self) -> None:
        if not self._is_stepping():
            self._end()
            self._begin()
        self._beats += 1

    # --- update ---------------------------------------------------------------------------------

    def _before_step(self, first: bool, *_: object) -> None:
        if self.away():
            return
        step = sys._getframe(2)  # above that of the hook
        if self._is_stepping(step.f_back):
            self._steps.append(None)
            return
        self._step_code = step.f_code
        if self._passes.backward is None:
            self._passes.settle()
        if first:
            self._end()
        self._begin()
        self._steps.append(self._phases.open("update"))

    def _after_step(self, first: bool, *_: object) -> None:
        if self.away() or not self._steps:
            return
        self._moved = self._moved or first
        phase = self._steps.pop()
        if phase is not None:
            self._phases.close(phase)
            self._stepped = self._stepped or self._moved
            self._moved = False

    def _is_stepping(self, frame: FrameType | None = None) -> bool:
        """Whether a step runs in a frame or above; one that has ended in an exception is closed."""
        if self._steps:
            frame = frame or sys._getframe()
            while frame is not None and frame.f_code is not self._step_code:
                frame = frame.f_back
            if frame is None:
                self._phases.close(next(phase for phase in self._steps if phase is not None))
                self._steps.clear()
                self._moved = False
        return bool(self._steps)
