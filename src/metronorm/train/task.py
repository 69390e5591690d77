"""A task: what differs between one training and another, as plain functions.

    def task(config: TrainConfig) -> Task:
        return Task(
            model=lambda: nn.Linear(784, 10),
            batches=Shuffled(images, labels, seed=config.seed),
            loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="sum"),
            count=lambda batch: len(batch[1]),
        )

Nothing else in the loop depends on the model, the data or the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor, nn

    from metronorm.clock import Clock
    from metronorm.train.config import TrainConfig
    from metronorm.train.precision import Fixed

Batch: TypeAlias = Any
"""Tensors or NumPy arrays, alone or in tuples, lists, dicts and dataclasses."""

Sums: TypeAlias = "Mapping[str, Tensor | tuple[Tensor, Tensor | float]]"
"""Sums by name. A pair is a sum and its divisor; a sum alone is divided by what `count` counts."""


@runtime_checkable
class Order(Protocol):
    """An endless order of examples, any part of which can be computed by itself.

    Its whole state is the number of examples consumed. So a run resumes by this number alone,
    another size of beat keeps the windows, and any rank can take any beat.
    """

    def take(self, first: int, size: int) -> Batch:
        """The batch of examples `first` to `first + size` of the order."""


@dataclass(frozen=True)
class Moment:
    """What a hook sees: the training at the end of a tick, before the tick is recorded.

    Attributes:
        tick: the number of updates done.
        last: whether the planned training ends here.
        clock: to log metrics and events with.
        model: in training mode. Hooks may read its weights and gradients, and run it.
        optimizer: after its step.
        directory: of the run.
        measures: of the newest evaluation, by name; empty before the first.
        stop: `stop(reason)` ends the training after this tick; a checkpoint is saved.
        until_signal: passes on what it is given until SIGTERM or Ctrl-C arrives; for hooks that
            take long.
        interrupted: whether SIGTERM or Ctrl-C has arrived.
        rank: of this process. Every process of a training calls every hook, as the model may need
            all of them to run; what is printed or written once is rank 0's to do.
        precision: of the matrix products of the training.
    """

    tick: int
    last: bool
    clock: Clock
    model: nn.Module
    optimizer: Any
    directory: Path
    measures: Mapping[str, float]
    stop: Callable[[str], None]
    until_signal: Callable[[Iterable[Any]], Iterable[Any]]
    interrupted: Callable[[], bool]
    rank: int = 0
    precision: Fixed = "fp32"


@dataclass(frozen=True)
class Hook:
    """Something to do every `every` ticks: samples, pictures, an early stop.

    Args:
        every: ticks between two calls. 0: never.
        run: what to call, with a `Moment`.
        phase: the phase of the tick that its time belongs to.
        at_end: call it after the last tick too.
        around: makes a context for each of these ticks, from before its first forward pass to after
            its update; for what must watch them.
    """

    every: int
    run: Callable[[Moment], object]
    phase: str = "hook"
    at_end: bool = False
    around: Callable[[Moment], AbstractContextManager[object]] | None = None

    def is_due(self, tick: int, *, last: bool) -> bool:
        """Whether it is to be called at the end of this tick."""
        return self.every > 0 and (tick % self.every == 0 or (last and self.at_end))


@dataclass(frozen=True)
class Task:
    """What to train, on what, and what to measure.

    Args:
        model: makes the model with fresh weights. torch's generator is seeded before it is called.
        batches: what to train on: an `Order` (such as `metronorm.data.Shuffled`), with which every
            resume is exact, or an iterable of batches (such as a DataLoader), which is iterated
            anew for each epoch.
        loss: the loss of a batch, *summed* over what `count` counts: a scalar. The training's loss
            is this sum over all beats of a tick, divided by their count.
        count: how many tokens, images, ... the loss of a batch is a sum over.
        measure: sums for the evaluation, from one forward pass; None: the loss alone. Never means:
            each sum is divided once, after all batches.
        validation: batches to evaluate on: an iterable that can be iterated again and again, or a
            function that makes one for each evaluation; None: none.
        test: the same, read once, when the planned training has ended; None: none.
        groups: the model's parameter groups for the optimizer; None: weight decay for matrices and
            none for vectors, and Muon for the weights of all linear layers but the last.
        hooks: to call every N ticks.
        save: called at the start of every attempt, to write what the model needs beside its
            weights (a tokenizer, labels): `save(directory, kept)`. What it returns, plain values
            by name, every checkpoint keeps; `kept` is what that of a resumed run has.
        data_id: a hash of the data's content, or another name for it; a resumed run must have the
            same one. None: that of `batches`, if it has one.
        unit: what is counted, in the plural: the name of the metric in the record.
        config: the config with what the data decided (a vocabulary's size); None: as it was.
        foresee: called once on one process, before there is an optimizer, with what is prepared; it
            may refuse to train. What it returns is on record in the event `forecast`.
        accumulate: for losses that are no sum over batches: `accumulate(model, batch, weight)`
            multiplies the loss by the weight, calls backward() itself, and returns the weighted
            loss, detached. It replaces `loss` in training, not in an evaluation.
    """

    model: Callable[[], nn.Module]
    batches: Order | Iterable[Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    count: Callable[[Batch], int]
    measure: Callable[[nn.Module, Batch], Sums] | None = None
    validation: Callable[[], Iterable[Batch]] | Iterable[Batch] | None = None
    test: Callable[[], Iterable[Batch]] | Iterable[Batch] | None = None
    groups: Callable[[nn.Module, TrainConfig], list[dict[str, Any]]] | None = None
    hooks: Sequence[Hook] = ()
    save: Callable[[Path, Mapping[str, Any]], Mapping[str, Any] | None] | None = None
    data_id: str | None = None
    unit: str = "examples"
    config: Any = None
    foresee: Callable[[Any], Mapping[str, Any] | None] | None = None
    accumulate: Callable[[nn.Module, Batch, float], Tensor] | None = None
