"""Windows: the beats of every tick, with the weight that makes them one big batch.

The mean loss of a batch is a sum over its tokens, divided by their number. If the batch is split
into beats, the sum of each beat must be divided by the number of tokens of *all* beats, on all
ranks. The mean of the beats' means is a different number if beats differ in size. So the number of
tokens must be known before the first backward pass: a window is read whole before it is returned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
import torch.distributed as distributed

from metronorm.errors import ConfigError, DataError
from metronorm.scalars import as_integer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch.distributed import ProcessGroup

T = TypeVar("T")

FAILED = -1  # a rank with an error sends this instead of its number of beats


class Window(Generic[T]):
    """The beats of one tick: iterates over pairs of a batch and the weight of its *summed* loss.

    Attributes:
        beats: number of beats on this rank.
        count: number of tokens (or whatever is counted) in all beats on all ranks.
        local_count: number of them in the beats of this rank.
        weight: 1 / count; times the number of ranks, if gradients are averaged over ranks.
    """

    def __init__(
        self, batches: list[T], count: int, weight: float, done: int = 0, *, local_count: int
    ) -> None:
        self.beats, self.count, self.weight = len(batches), count, weight
        self.local_count = local_count
        self._batches, self._done = batches, done

    def __len__(self) -> int:
        return self.beats

    def __iter__(self) -> Iterator[tuple[T, float]]:
        """The beats that were not returned yet: all, except after a resume inside the window."""
        while self._done < self.beats:
            self._done += 1
            yield self._batches[self._done - 1], self.weight

    @property
    def done(self) -> int:
        """Number of beats that were returned so far."""
        return self._done


class _Windows(Iterator[Window[T]]):
    """What `windows` returns: an iterator that can save and restore its position.

    A `for` continues where the last one stopped; after the end it starts the batches again.

        state    | event                              | next
        ---------|------------------------------------|----------------------------------------
        unopened | next()                             | reading, after iter(batches)
        reading  | next(), batches are left           | reading, one window further
        reading  | next(), no batch is left           | ended: StopIteration
        reading  | the first next() of a `for` that   | reading, in a new epoch: the `for` before
                 | finds no batch left                | was left by a break after the last window
        ended    | next()                             | ended: StopIteration
        ended    | `for`                              | unopened, in a new epoch
        any      | load_state_dict()                  | unopened, at the saved position
    """

    def __init__(
        self,
        batches: Iterable[T],
        micro_batches: int,
        count: Callable[[T], int],
        ranks: Literal["mean", "sum"],
        process_group: ProcessGroup | None,
    ) -> None:
        if ranks not in ("mean", "sum"):
            raise ConfigError('ranks must be "mean" or "sum"', got=repr(ranks))
        self._skip = 0  # beats of the next window that were done before a resume
        self.micro_batches = micro_batches
        self._size = self.micro_batches  # of the last window
        self._batches, self._count, self._ranks, self._group = batches, count, ranks, process_group
        self._source: Iterator[T] | None = None
        self._window: Window[T] | None = None
        self._number = 0  # of windows in this epoch
        self._given = 0  # of these, how many this object gave out
        self._given_before = 0  # of those, how many before this `for`
        self._ended = False  # this epoch
        self._again = False  # there was an epoch before this one
        self._begin = self._position()

    @property
    def micro_batches(self) -> int:
        """Beats in a window, from the next one on."""
        return self._micro_batches

    @micro_batches.setter
    def micro_batches(self, value: int) -> None:
        number = as_integer(value)
        if number is None or number < 1:
            raise ConfigError("micro_batches must be at least 1", got=repr(value))
        if self._skip and number != self._size:
            raise _size_is_fixed(number, self._skip, self._size)
        self._micro_batches = number

    def __len__(self) -> int:
        return -(-len(self._batches) // self.micro_batches)  # type: ignore[arg-type]

    def __iter__(self) -> _Windows[T]:
        if self._ended:
            self._begin_again()
        self._given_before = self._given
        return self

    def _begin_again(self) -> None:
        self._again = self._again or self._given > 0
        self._number = self._given = self._given_before = 0
        self._source, self._window, self._ended = None, None, False

    def __next__(self) -> Window[T]:
        if self._ended:
            raise StopIteration
        self._size = self.micro_batches
        try:
            if self._source is None:
                self._source = self._open()
            self._begin = self._position()
            batches = list(itertools.islice(self._source, self._size))
            count = sum(self._counted(batch) for batch in batches)
        except Exception:
            self._exchange(0, FAILED)  # the other ranks wait for this rank's counts
            raise
        total, world = self._exchange(count, len(batches))
        if not batches:
            if self._again and not self._number:
                raise ended(self._batches)
            if self._given and self._given == self._given_before:  # a break after the last window
                self._begin_again()
                return next(self)
            self._ended = True
            raise StopIteration
        if total == 0:
            raise DataError(
                "a window must hold at least one token",
                got=f"0 in the {len(batches)} beats of window {self._number + 1}",
                fix="leave out batches without tokens, or more micro_batches",
            )
        self._number += 1
        self._given += 1
        weight = (world if self._ranks == "mean" else 1) / total
        self._window = Window(batches, total, weight, self._skip, local_count=count)
        self._skip = 0
        return self._window

    def _open(self) -> Iterator[T]:
        source = iter(self._batches)
        if self._again and source is self._batches:
            raise ended(source)
        return source

    def _counted(self, batch: T) -> int:
        count = self._count(batch)
        try:
            whole = int(count)
        except (TypeError, ValueError, OverflowError):
            whole = -1
        if whole != count or whole < 0:
            raise DataError("count must give a whole number of tokens", got=repr(count))
        return whole

    def _exchange(self, count: int, beats: int) -> tuple[int, int]:
        """Tokens on all ranks, and the number of ranks."""
        if not distributed.is_available() or not distributed.is_initialized():
            return count, 1
        world = distributed.get_world_size(self._group)
        backend = distributed.get_backend(self._group)
        device = torch.accelerator.current_accelerator() if backend == "nccl" else None
        mine = torch.tensor([count, beats], device=device)
        gathered = [torch.empty_like(mine) for _ in range(world)]
        distributed.all_gather(gathered, mine, group=self._group)
        counts, numbers = torch.stack(gathered).T.tolist()
        if FAILED in numbers and beats != FAILED:
            raise DataError(
                "every rank must have its batches",
                got=f"an error on rank {numbers.index(FAILED)} in window {self._number + 1}",
            )
        if len(set(numbers)) > 1 and beats != FAILED:
            raise DataError(
                "every rank must have the same number of beats in a window",
                got=f"{numbers} in window {self._number + 1}",
                fix="a sampler that pads or drops the last batches in the same way on all ranks",
            )
        return sum(counts), world

    # --- resume ---------------------------------------------------------------------------------

    def _position(self) -> Any:
        state_dict = getattr(self._batches, "state_dict", None)
        return state_dict() if state_dict else None

    def state_dict(self) -> dict[str, Any]:
        """Where this stands: which window, and how many of its beats were handed out.

        `batches` holds the state of the batches at the beginning of the window, if they have a
        `state_dict`; otherwise they must be brought there by hand before going on: that is
        `windows * micro_batches` after the start of this epoch, if every window so far was of that
        size.
        """
        window = self._window
        if window is None or window.done == window.beats:  # between two windows
            return self._state(
                self._number, self._skip, self._begin if self._skip else self._position()
            )
        return self._state(self._number - 1, window.done, self._begin)

    def _state(self, number: int, done: int, place: Any) -> dict[str, Any]:
        return {
            "windows": number,
            "beats": done,
            "micro_batches": self._size if done else self.micro_batches,
            "batches": place,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stood; in the middle of a window with its first beat not yet done.

        Raises:
            ConfigError: no such state, or one from the middle of a window of another size.
        """
        try:
            number, done, size = (state[name] for name in ("windows", "beats", "micro_batches"))
        except KeyError as error:
            raise ConfigError(
                "the state of windows must hold their position", got=f"no {error}"
            ) from None
        if done and size != self.micro_batches:
            raise _size_is_fixed(self.micro_batches, done, size)
        load = getattr(self._batches, "load_state_dict", None)
        if load and state.get("batches") is not None:
            load(state["batches"])
        self._number, self._skip, self._size = number, done, size
        self._source = self._window = None
        self._given = self._given_before = 0
        self._ended = self._again = False
        self._begin = state.get("batches")


def ended(batches: object) -> DataError:
    """The error for batches that have ended and cannot start again."""
    return DataError(
        "windows can begin again only where their batches can",
        got=f"a {type(batches).__name__} that has ended",
        fix="a list, a DataLoader or anything else that iter() begins anew; or new windows for "
        "every epoch",
    )


def _size_is_fixed(micro_batches: int, done: int, size: int) -> ConfigError:
    return ConfigError(
        "a window that has begun keeps its size",
        got=f"micro_batches={micro_batches}, after {done} of {size} beats",
        fix=f"micro_batches={size}",
    )


def windows(
    batches: Iterable[T],
    micro_batches: int,
    count: Callable[[T], int],
    *,
    ranks: Literal["mean", "sum"] = "mean",
    process_group: ProcessGroup | None = None,
) -> _Windows[T]:
    """The beats of every tick, `micro_batches` at a time; the last window can have fewer.

        for window in windows(batches, micro_batches=4, count=lambda batch: batch.tokens):
            for batch, weight in window:
                (weight * summed_loss(model, batch)).backward()
            optimizer.step()

    Args:
        batches: the batches of this rank. The state of the windows includes their `state_dict()`,
            if they have one.
        micro_batches: number of beats in a window. The attribute of the same name may be set; the
            new number counts from the next window on.
        count: returns the number of tokens (targets that count, samples, ...) that the *sum* of a
            batch's loss is over.
        ranks: what happens to gradients between ranks. "mean": they are averaged (DDP, FSDP2), so
            the weight is larger by the number of ranks. "sum": they are added.
        process_group: the ranks that share a window; by default all ranks, if torch.distributed is
            initialized. All of them must iterate in step: they exchange the counts once per window.

    Returns:
        An iterator of `Window`, with `state_dict()` and `load_state_dict()`. A second `for` over it
        is a second epoch: it starts the batches again.

    Raises:
        ConfigError: an argument is not valid.
        DataError: the iterator found a window without tokens, ranks with different numbers of
            beats, or batches that cannot start again for a second epoch, such as a generator.
    """
    return _Windows(batches, micro_batches, count, ranks, process_group)
