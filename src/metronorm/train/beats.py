"""The beats of a training, one after the other, and where they stand.

| `batches` of the task | the state | a resume is exact |
| --- | --- | --- |
| an `Order` | examples consumed | always; with another size of beat the windows stay the same |
| an iterable with `state_dict` | its own | as far as its own is |
| any other, such as a DataLoader | epoch, and beats of it | if it gives the same batches again |
| an iterator, which cannot begin anew | none | no: it goes on wherever it stands |
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch

from metronorm.errors import CheckpointError, DataError
from metronorm.train.batches import same
from metronorm.train.task import Order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_log = logging.getLogger("metronorm")

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class OrderedBeats:
    """Beats of an `Order`: `batch_size` examples at a time."""

    def __init__(self, order: Order, batch_size: int) -> None:
        self._order, self._batch_size = order, batch_size
        self.consumed = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = self._order.take(self.consumed, self._batch_size)
        self.consumed += self._batch_size
        return batch

    def first(self) -> Any:
        """The first batch of the training."""
        return self._order.take(0, self._batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The number of examples consumed."""
        return {"examples": self.consumed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after as many examples; `position` is their name in older checkpoints."""
        self.consumed = _count(state.get("examples", state.get("position")))

    def beats_per_epoch(self) -> float | None:
        """Beats in an epoch; None where the order has none."""
        size = getattr(self._order, "examples_per_epoch", None)
        return size / self._batch_size if size else None


class IteratedBeats:
    """Beats of an iterable of batches, which is begun anew for each epoch.

    The random numbers that an epoch is loaded with (its shuffling, its augmentation, the seeds of a
    DataLoader's workers) are a function of (seed, epoch). So a resume iterates the epoch again, up
    to the batch that comes next, and what is random outside of torch, NumPy's and Python's global
    generators is not repeated.
    """

    def __init__(self, batches: Iterable[Any], seed: int) -> None:
        self._batches, self._seed = batches, seed
        self._own_state = hasattr(batches, "state_dict") and hasattr(batches, "load_state_dict")
        self._epoch = self._beat = 0
        self._source: Iterator[Any] | None = None
        self._random: _Random | None = None
        self._once = iter(batches) if _ends_for_good(batches) else None
        self._first: list[Any] = []  # of an iterator, taken to be looked at

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._once is not None:
            if self._first:
                return self._first.pop()
            batch = next(self._once, _END)
            if batch is _END:
                raise DataError(
                    "the batches must last for all ticks",
                    got=f"a {type(self._batches).__name__} that has ended",
                    fix="fewer ticks, or batches that can be iterated anew: a list, a DataLoader",
                )
            return batch
        batch = self._next()
        if batch is _END:
            if not self._beat:
                raise DataError(
                    "an epoch must hold a batch at least",
                    got=f"none in epoch {self._epoch} of a {type(self._batches).__name__}",
                )
            self._epoch, self._beat, self._source = self._epoch + 1, 0, None
            batch = self._next()
            if batch is _END:
                raise DataError(
                    "the batches must be there anew for each epoch",
                    got=f"none in epoch {self._epoch} of a {type(self._batches).__name__}",
                )
        self._beat += 1
        return batch

    def _next(self) -> Any:
        if self._source is None:
            self._random = _Random(self._seed, self._epoch)
            with self._random.in_place():
                self._source = iter(self._batches)
        assert self._random is not None
        with self._random.in_place():
            return next(self._source, _END)

    def first(self) -> Any:
        """The first batch of the training; it is not consumed."""
        if self._once is not None:
            self._first = [next(self)]
            return self._first[0]
        probe = IteratedBeats(self._batches, self._seed)
        return next(probe)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and beats of it, or what the iterable itself says."""
        if self._own_state:
            return {"own": self._batches.state_dict()}  # type: ignore[attr-defined]
        return {"epoch": self._epoch, "beats": self._beat}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there. An epoch is read again up to the batch that comes next.

        Raises:
            DataError: the epoch is shorter than it was.
        """
        if self._own_state and "own" in state:
            self._batches.load_state_dict(state["own"])  # type: ignore[attr-defined]
            return
        self._epoch, beats = _count(state.get("epoch")), _count(state.get("beats"))
        self._beat, self._source = 0, None
        if self._once is not None:
            return
        while self._beat < beats:
            if self._next() is _END:
                raise DataError(
                    "a resumed run must have the batches it was begun with",
                    got=f"{self._beat} in epoch {self._epoch}, of which {beats} were consumed",
                )
            self._beat += 1

    def beats_per_epoch(self) -> float | None:
        """Beats in an epoch; None where the iterable does not say."""
        try:
            return len(self._batches) or None  # type: ignore[arg-type]
        except TypeError:
            return None

    def doubt(self) -> str | None:
        """Why a resumed training would not have the batches it would have had; None: it would."""
        kind = type(self._batches).__name__
        if self._once is not None:
            return f"a {kind} cannot begin anew: a resumed run takes whatever it gives then"
        if self._own_state:
            return None
        if getattr(self._batches, "in_order", True) is False:
            return f"this {kind} has in_order=False: its workers' batches come as they are ready"
        one, other = self.first(), self.first()
        if not same(one, other):
            return (
                f"this {kind} gives other batches when it is begun anew with the same seeds of "
                "torch, NumPy and random"
            )
        return None


def make_beats(batches: Any, *, batch_size: int, seed: int) -> OrderedBeats | IteratedBeats:
    """The beats of a task's `batches`.

    Raises:
        DataError: neither an `Order` nor an iterable.
    """
    if isinstance(batches, Order):
        return OrderedBeats(batches, batch_size)
    if not hasattr(batches, "__iter__"):
        raise DataError(
            "batches must be an order with take(first, size), or an iterable of batches",
            got=type(batches).__name__,
            fix="metronorm.data.Shuffled(inputs, targets, seed=...), or a DataLoader",
        )
    return IteratedBeats(batches, seed)


_END: Any = object()


def _ends_for_good(batches: Iterable[Any]) -> bool:
    return iter(batches) is batches if hasattr(batches, "__next__") else False


def _count(value: Any) -> int:
    try:
        return msgspec.convert(value, _Count)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            "a checkpoint must hold how much of the data was consumed", got=str(error)
        ) from None


class _Random:
    """The global generators of torch, NumPy and Python, as one epoch's loading has them."""

    def __init__(self, seed: int, epoch: int) -> None:
        self._seed = (seed * 1_000_003 + epoch) % 2**63
        self._states: tuple[Any, ...] | None = None

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the loading draw from its own numbers, and put the process's back."""
        numpy = sys.modules.get("numpy")
        before = _read(numpy)
        if self._states is None:
            torch.default_generator.manual_seed(self._seed)
            random.seed(self._seed)
            if numpy is not None:
                numpy.random.seed(self._seed % 2**32)
        else:
            _write(numpy, self._states)
        try:
            yield
        finally:
            self._states = _read(numpy)
            _write(numpy, before)


def _read(numpy: Any) -> tuple[Any, ...]:
    numbers = numpy.random.get_state() if numpy is not None else None
    return torch.get_rng_state(), random.getstate(), numbers


def _write(numpy: Any, states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    if numpy is not None and states[2] is not None:
        numpy.random.set_state(states[2])
