"""The beats of a training, one after the other, and where they stand.

| `batches` of the task | the state | a resume is exact |
| --- | --- | --- |
| an `Order` | examples consumed | always; with another size of beat the windows stay the same |
| what has `state_dict` and `load_state_dict` | its own | as far as its own is |
| any other iterable, such as a DataLoader | epoch, and beats of it | if it gives the same again |
| an iterator, which cannot begin anew | none | no: it goes on wherever it stands |

What is random in the loading of a beat depends on its place alone; see `seeding.py`.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch

from metronorm.errors import CheckpointError, DataError
from metronorm.train.batches import iterate, same
from metronorm.train.seeding import seed_loading
from metronorm.train.task import Order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_log = logging.getLogger("metronorm")

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class OrderedBeats:
    """Beats of an `Order`: `batch_size` examples at a time."""

    def __init__(self, order: Order, batch_size: int, seed: int) -> None:
        self._order, self._batch_size, self._seed = order, batch_size, seed
        self.consumed = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = self._take(self.consumed)
        self.skip()
        return batch

    def skip(self) -> None:
        """Pass over the next beat, which is another rank's."""
        self.consumed += self._batch_size

    def first(self) -> Any:
        """The first batch of the training; it is not consumed."""
        return self._take(0)

    def _take(self, first: int) -> Any:
        seed_loading(self._seed, first)
        return self._order.take(first, self._batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The number of examples consumed."""
        return {"examples": self.consumed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after as many examples; `position` is their name in older checkpoints.

        Raises:
            CheckpointError: the state does not say how many, or is that of an iterable.
        """
        if "beats" in state:
            raise _other_kind("an iterable, such as a DataLoader", "an order")
        self.consumed = _count(state.get("examples", state.get("position")))

    def beats_per_epoch(self) -> float | None:
        """Beats in an epoch; None where the order has none."""
        size = getattr(self._order, "examples_per_epoch", None)
        return size / self._batch_size if size else None


class IteratedBeats:
    """Beats of an iterable of batches, which is begun anew for each epoch.

    The generators that it may draw from are seeded anew for each beat: torch's, NumPy's and
    Python's global ones, and those that a DataLoader or its sampler was given. Where there is a
    `set_epoch`, as samplers have it, it is told the epoch. So a resume iterates the epoch again, up
    to the batch that comes next.
    """

    def __init__(self, batches: Iterable[Any], seed: int) -> None:
        self._batches, self._seed = batches, seed
        self._kind = type(batches).__name__
        self._parts = _parts(batches)
        found = [getattr(part, "generator", None) for part in self._parts]
        self._generators = [one for one in found if isinstance(one, torch.Generator)]
        self._has_state = hasattr(batches, "state_dict") and hasattr(batches, "load_state_dict")
        self._ends = not self._has_state and _ends_for_good(batches)
        if _keeps_workers(batches):
            iterate(batches)  # draws a number more, the first time; so that no epoch is the first
        self._epoch = self._beat = 0
        self._source: Iterator[Any] | None = None
        self._looked_at: list[Any] = []  # of an iterator: its first batch, before it is consumed

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = self._looked_at.pop() if self._looked_at else self._load()
        if batch is _END and self._beat and not self._ends:
            self._epoch, self._beat, self._source = self._epoch + 1, 0, None
            batch = self._load()
        if batch is _END:
            raise self._ended()
        self._beat += 1
        return batch

    def skip(self) -> None:
        """Pass over the next beat, which is another rank's; it is read all the same."""
        next(self)

    def _load(self) -> Any:
        """The next batch of this epoch, or `_END`."""
        if self._source is None:
            self._source = self._open(self._epoch)
        return self._next(self._source, self._epoch, self._beat)

    def _open(self, epoch: int) -> Iterator[Any]:
        for part in self._parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        seed_loading(self._seed, epoch, generators=self._generators)
        return iterate(self._batches)

    def _next(self, source: Iterator[Any], epoch: int, beat: int) -> Any:
        seed_loading(self._seed, epoch, beat + 1, generators=self._generators)
        return next(source, _END)

    def _ended(self) -> DataError:
        if self._ends and self._beat:
            return DataError(
                "the batches must last for all ticks",
                got=f"a {self._kind} that has ended after {self._beat:,}",
                fix="fewer ticks, or batches that can be iterated anew: a list, a DataLoader",
            )
        return DataError(
            "an epoch must hold a batch at least",
            got=f"none in epoch {self._epoch} of a {self._kind}",
            fix="drop_last=False" if getattr(self._batches, "drop_last", False) else None,
        )

    def first(self) -> Any:
        """The first batch of the training; it is not consumed."""
        if self._looked_at:
            return self._looked_at[0]
        before = self._own_state()
        batch = self._next(self._open(0), 0, 0)
        if batch is _END:
            raise self._ended()
        if self._ends:
            self._looked_at = [batch]
        if before is not None:
            self._batches.load_state_dict(before)  # type: ignore[attr-defined]
        return batch

    def _own_state(self) -> Any:
        return self._batches.state_dict() if self._has_state else None  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Epoch and beats of it, and what the iterable itself says."""
        state = {"epoch": self._epoch, "beats": self._beat}
        own = self._own_state()
        return {**state, "own": own} if own is not None and _is_plain(own) else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there. An epoch is read again up to the batch that comes next.

        Raises:
            CheckpointError: the state does not say where, or is that of an order.
            DataError: the epoch is shorter than it was.
        """
        if state.keys() & {"examples", "position"}:
            raise _other_kind("an order", f"a {self._kind}")
        self._epoch, beats = _count(state.get("epoch")), _count(state.get("beats"))
        self._beat, self._source = 0, None
        if self._has_state and "own" in state:
            self._batches.load_state_dict(state["own"])  # type: ignore[attr-defined]
            self._beat = beats
        while self._beat < beats and not self._ends:
            if self._load() is _END:
                raise DataError(
                    "a resumed run must have the batches it was begun with",
                    got=f"{self._beat} in epoch {self._epoch}, of which {beats} were consumed",
                )
            self._beat += 1

    def beats_per_epoch(self) -> float | None:
        """Beats in an epoch; None where the iterable does not say."""
        try:
            return len(self._batches) or None  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return None

    def doubt(self) -> str | None:
        """Why a resume would take other batches than a training without it; None: it would not."""
        if self._ends:
            return f"a {self._kind} cannot begin anew: a resumed run takes whatever it gives then"
        if self._has_state and _is_plain(self._own_state()):
            return None  # what it says of itself is believed
        if getattr(self._batches, "in_order", True) is False:
            return f"this {self._kind} has in_order=False: workers' batches come as they are ready"
        if same(self.first(), self.first()):
            return None
        return (
            f"this {self._kind} gives other batches when it is begun anew with the same seeds of "
            "torch, NumPy and random"
            + ("; try: persistent_workers=False" if _keeps_workers(self._batches) else "")
        )


def make_beats(batches: Any, *, batch_size: int, seed: int) -> OrderedBeats | IteratedBeats:
    """The beats of a task's `batches`.

    Raises:
        DataError: neither an `Order` nor an iterable.
    """
    if _is_order(batches):
        return OrderedBeats(batches, batch_size, seed)
    if not hasattr(batches, "__iter__"):
        raise DataError(
            "batches must be an order with take(first, size), or an iterable of batches",
            got=type(batches).__name__,
            fix="metronorm.data.Shuffled(inputs, targets, seed=...), or a DataLoader",
        )
    return IteratedBeats(batches, seed)


def _other_kind(before: str, now: str) -> CheckpointError:
    return CheckpointError(
        "a resumed run must have batches of the kind it was begun with",
        got=f"{now}, where the run had {before}",
        fix="the recipe or task that the run was begun with",
    )


_END: Any = object()


def _is_order(batches: Any) -> bool:
    """Whether it has `take` of two arguments; arrays, tables and data sets have another one."""
    if not isinstance(batches, Order):
        return False
    try:
        arguments = inspect.signature(batches.take).parameters.values()
    except ValueError:  # a tensor's
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one for one in arguments if one.kind in kinds and one.default is one.empty]
    return len(needed) == 2


def _ends_for_good(batches: Iterable[Any]) -> bool:
    return hasattr(batches, "__next__") and iter(batches) is batches


def _parts(batches: Any) -> list[Any]:
    """A DataLoader, its samplers and its data set; of any other iterable, what of these it has."""
    batch_sampler = getattr(batches, "batch_sampler", None)
    named = (getattr(batches, name, None) for name in ("sampler", "dataset"))
    found = [batches, batch_sampler, getattr(batch_sampler, "sampler", None), *named]
    return list({id(part): part for part in found if part is not None}.values())


def _keeps_workers(batches: Any) -> bool:
    return bool(getattr(batches, "persistent_workers", False))


def _is_plain(state: Any) -> bool:
    """Whether a checkpoint can keep a state: numbers, texts, lists and dicts of these."""
    try:
        return bool(msgspec.json.decode(msgspec.json.encode(state)) == state)
    except (TypeError, ValueError):  # tensors, bytes that come back as text, ...
        return False


def _count(value: Any) -> int:
    try:
        return msgspec.convert(value, _Count)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            "a checkpoint must hold how much of the data was consumed", got=str(error)
        ) from None
