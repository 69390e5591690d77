"""Makes batches from token files: windows in pseudo-random order, in constant memory.

The order is that of `metronorm.data.shuffled`, and its state is one number: the windows taken.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.data.shuffled import epoch_keys, mix, permute
from metronorm.errors import ConfigError, DataError
from metronorm.scalars import is_integer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


class WindowSampler:
    """Batches of windows of a token array, for ever.

    An epoch splits the tokens into windows of `context` tokens that do not overlap, and visits each
    once, in a pseudo-random order. The first window of an epoch begins at a random offset below
    `context`, so an epoch leaves out fewer than two contexts of tokens, at both ends. A batch may
    hold the end of an epoch and the start of the next. Ranks take turns in the same order, so they
    never share a window.

    Args:
        tokens: ids (tokens,), any integer type. Of a memory map only the windows are read.
        context: number of tokens in a window. The targets are the tokens one place further, so one
            more token is read.
        batch_size: number of windows per batch and rank.
        seed: seed of the order.
        rank: number of this process, below `world`.
        world: number of processes.

    Raises:
        ConfigError: an argument is not valid.
        DataError: there are fewer than `context` + 1 tokens.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        context: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._source = _Source(tokens, context, batch_size)
        if not is_integer(seed):
            raise ConfigError("seed must be a whole number", got=repr(seed), fix="0")
        if world < 1 or not 0 <= rank < world:
            raise ConfigError(
                "rank must lie from 0 to world - 1", got=f"rank={rank}, world={world}"
            )
        self.context, self.batch_size, self.seed = context, batch_size, seed
        self.rank, self.world = rank, world
        room = len(self._source.tokens) - 1  # tokens that have a target
        self._offsets = min(context, room - context + 1)
        self.windows_per_epoch = (room - (self._offsets - 1)) // context
        self._position = 0  # windows taken by all ranks together

    @property
    def epoch(self) -> float:
        """Epochs taken by all ranks together, with the fraction of the current one."""
        return self._position / self.windows_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next inputs and targets, each int64 (batch_size, context)."""
        batch = self.take(self._position + self.rank * self.batch_size, self.batch_size)
        self._position += self.world * self.batch_size
        return batch

    @property
    def examples_per_epoch(self) -> int:
        """The number of windows in an epoch."""
        return self.windows_per_epoch

    def take(self, first: int, size: int) -> Batch:
        """Windows `first` to `first + size` of the endless order: inputs and targets, int64."""
        return self._source.windows(self.starts(first + np.arange(size)))

    def starts(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first tokens of the windows at `places` of the endless order, in the same shape."""
        epochs, places = np.divmod(places, self.windows_per_epoch)
        keys = epoch_keys(epochs, self.seed)
        offsets = (mix(keys) % np.uint64(self._offsets)).astype(np.int64)
        return offsets + self.context * permute(places, self.windows_per_epoch, keys)

    def state_dict(self) -> dict[str, int]:
        """The state with which `load_state_dict` continues from here; the same on every rank."""
        return {
            "position": self._position,
            "seed": self.seed,
            "context": self.context,
            "batch_size": self.batch_size,
            "tokens": len(self._source.tokens),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another sampler stopped. No window comes twice, also if `world` differs.

        Raises:
            ConfigError: this is no state of a sampler, or its seed, context, batch size or number
                of tokens differs.
        """
        position = state.get("position")
        if not is_integer(position) or position < 0:
            raise ConfigError(
                "the state of a sampler must hold its position",
                got=repr(position),
                fix="the result of state_dict()",
            )
        here = self.state_dict()
        for name in ("seed", "context", "batch_size", "tokens"):
            if state.get(name) != here[name]:
                raise ConfigError(
                    f"a sampler must continue with its {name}, {state.get(name)}",
                    got=str(here[name]),
                    fix="the old options and text, or a new run",
                )
        self._position = position


def validation_windows(
    tokens: NDArray[Any], context: int, batch_size: int, max_tokens: int | None = None
) -> Iterator[Batch]:
    """Inputs and targets, int64 (up to batch_size, context), in order and without overlap.

    Every target comes once; up to `context` - 1 tokens at the end are left out. The last batch may
    be smaller.

    Args:
        tokens: ids (tokens,).
        context: number of tokens in a window.
        batch_size: number of windows per batch.
        max_tokens: largest number of targets; the windows are then spread evenly over `tokens`.

    Raises:
        ConfigError: an argument is not valid.
        DataError: there are fewer than `context` + 1 tokens.
    """
    source = _Source(tokens, context, batch_size)
    windows = (len(source.tokens) - 1) // context
    if max_tokens is not None and max_tokens < context:
        raise ConfigError(
            "max_tokens must be at least one context",
            got=f"max_tokens={max_tokens}, context={context}",
            fix=str(context),
        )
    taken = windows if max_tokens is None else min(windows, max_tokens // context)

    def batches() -> Iterator[Batch]:
        for first in range(0, taken, batch_size):
            places = np.arange(first, min(first + batch_size, taken))
            yield source.windows(context * (places * windows // taken))

    return batches()  # a generator of its own, so that the checks above run at the call


class _Source:
    """Windows of tokens. Pages of a memory map are released as soon as they are read.

    Otherwise they count as memory of the process, up to the size of the file, although the kernel
    may reclaim them at any time. They stay in the kernel's cache, so releasing them costs little.
    """

    def __init__(self, tokens: NDArray[Any], context: int, batch_size: int) -> None:
        self.tokens = np.asarray(tokens)  # slices of a plain array cost less than a memory map's
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise DataError(
                "tokens must be integers in one dimension",
                got=f"{self.tokens.dtype} of {self.tokens.shape}",
            )
        for name, value in (("context", context), ("batch_size", batch_size)):
            if not is_integer(value) or value < 1:
                raise ConfigError(f"{name} must be a whole number, at least 1", got=repr(value))
        if len(self.tokens) < context + 1:
            raise DataError(
                f"a text must hold at least one context and its target ({context} + 1 tokens)",
                got=f"{len(self.tokens)} tokens",
                fix="more text, or a shorter context",
            )
        self.context = context
        self._map = _read_only_map(tokens)

    def windows(self, starts: NDArray[np.int64]) -> Batch:
        inputs = np.empty((len(starts), self.context), dtype=np.int64)  # (batch, context)
        targets = np.empty_like(inputs)
        for row, start in enumerate(starts.tolist()):
            inputs[row] = self.tokens[start : start + self.context]
            targets[row] = self.tokens[start + 1 : start + 1 + self.context]
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
        return inputs, targets


def _read_only_map(tokens: NDArray[Any]) -> mmap.mmap | None:
    """The memory map under `tokens`, if its pages can be released without losing a write."""
    if not isinstance(tokens, np.memmap) or tokens.mode != "r":
        return None
    base: object = tokens
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
