"""The processes that train one model together: which one this is, and what they say to each other.

| launched by | the world |
| --- | --- |
| Python, `metronorm train` | one process; nothing is opened |
| torchrun, SLURM and others that set RANK, WORLD_SIZE, MASTER_ADDR | all processes of the launch |
| a program that has initialized torch.distributed | its default group |

Gradients go between processes by DDP or FSDP2 (`parallel.py`). Here go the few numbers and texts
that keep the loops in step. They go from host to host (gloo), so that nobody waits for a device.

A process that fails while all prepare says so where the others wait for it. All of them then end
with an error, and only the first of those that failed says why.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import torch
from torch import distributed

from metronorm.errors import ConfigError, MetronormError, RankError
from metronorm.ranks import find_place, in_meeting
from metronorm.train._torch_private import default_store, part_of_store
from metronorm.train.lost_ranks import LostRanks, is_of_others
from metronorm.train.meeting import meet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor
    from torch._C._distributed_c10d import Store  # for the checker: it has no public name
    from torch.distributed import ProcessGroup

    from metronorm.clock import Clock
    from metronorm.clock.phase_timer import Phase

T = TypeVar("T")

_FINE, _FAILED, _TRACED = b"+", b"!", b"?"
_trainings = itertools.count()  # of this process, and so of all that train with it


class World:
    """The processes of a training. Every method that speaks must be called by all of them, in step.

    Args:
        control: the group in which they speak; None: there is one process.
        store: that all of them reach, for this training alone.

    Attributes:
        rank: of this process, from 0 on.
        size: number of processes.
    """

    def __init__(self, control: ProcessGroup | None = None, store: Store | None = None) -> None:
        self.control = control
        self.rank = distributed.get_rank(control) if control else 0
        self.size = distributed.get_world_size(control) if control else 1
        self._speaks_for_failed = True
        self._known_to_all: Exception | None = None
        self._where = (0, "prepare")
        self.lost = LostRanks(store, self.rank, self.size, lambda: self._where) if store else None

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks for all: rank 0."""
        return self.rank == 0

    def at(self, tick: int, phase: str) -> None:
        """Note where this rank is, for the others to know when they have lost it."""
        self._where = (tick, phase)

    def phase(self, clock: Clock, name: str) -> Phase:
        """A phase of the clock's running tick, which is also where this rank is."""
        self._where = (clock.tick, name)
        return clock.phase(name)

    @contextlib.contextmanager
    def naming_the_lost(self, event: Callable[..., None] | None = None) -> Iterator[None]:
        """Let an error inside the block name the rank that failed first, see `LostRanks.explain`.

        Args:
            event: records it; None: while all prepare, where those that raise an exception say so
                themselves.
        """
        try:
            yield
        except BaseException as error:
            told = event is None and isinstance(error, Exception) and not is_of_others(error)
            if self.lost is None or told:
                raise
            explained = self.lost.explain(error)
            if event is not None:
                for sign in self.lost.found:
                    event("rank lost", **sign.fields())
            if explained is error:
                raise
            raise explained from None

    def separate(self, seconds: float) -> World:
        """The same processes in a group of its own, in which another thread speaks meanwhile.

        Args:
            seconds: how long to wait there for another process before it counts as lost.
        """
        return World(self.control and _control(seconds))

    def gather(self, value: bytes = b"") -> list[bytes]:
        """What every process gives, by rank.

        Raises:
            RankError: another process has failed instead.
        """
        return self._exchange(_FINE + value)

    def any_of(self, text: str) -> str:
        """The text of the first process that has one; all must call this in step."""
        return next((each.decode() for each in self.gather(text.encode()) if each), "")

    def barrier(self) -> None:
        """Wait until all are here."""
        self.gather()

    def told(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, a plain value, on every process."""
        value = make() if self.first else None
        if self.control is None:
            return value  # type: ignore[return-value]
        found: T = msgspec.json.decode(self.gather(msgspec.json.encode(value))[0])
        return found

    def in_turn(self, action: Callable[[], T]) -> T:
        """Do something on rank 0 first, and then on all others together."""
        if self.first:
            value = action()
        self.barrier()
        if not self.first:
            value = action()
        self.barrier()
        return value

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.control is None:
            return number
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self.control)
        return int(found)

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all processes, in float64."""
        found = torch.tensor(numbers, dtype=torch.float64)
        if self.control is not None:
            distributed.all_reduce(found, group=self.control)
        values: list[float] = found.tolist()
        return values

    def added(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on its device; the tensor is changed."""
        if self.control is not None:
            distributed.all_reduce(tensor)
        return tensor

    def check_same(
        self,
        must: str,
        values: Mapping[str, Any],
        fix: str = "the same files and options on every machine",
    ) -> None:
        """Compare values that must be the same on every process.

        Raises:
            ConfigError: on rank 0, with the ranks that have another value.
            RankError: on all others.
        """
        if self.control is None:
            return
        everybody = [msgspec.json.decode(each) for each in self.gather(msgspec.json.encode(values))]
        for name in values:
            texts = [msgspec.json.encode(each[name]) for each in everybody]
            usual = max(texts, key=texts.count)
            odd = [rank for rank, text in enumerate(texts) if text != usual]
            if odd:
                shown = (
                    f"{everybody[odd[0]][name]!r} on rank {odd[0]}, {msgspec.json.decode(usual)!r}"
                )
                self._known_to_all = ConfigError(
                    f"all ranks must have the same {must}",
                    got=f"{name}: {shown} on {self.size - len(odd)} of {self.size}",
                    fix=fix,
                )
                raise self._known_to_all if self.first else _told(str(self._known_to_all))

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let the others know if this process fails inside the block, where they wait for it."""
        try:
            yield
        except RankError:
            raise
        except Exception as error:
            if is_of_others(error) or error is self._known_to_all:
                raise
            if self.control is not None:
                # what is no error of ours is a traceback there, which does not say whose it is
                traced = not isinstance(error, MetronormError)
                text = f"{type(error).__name__}: {error}" if traced else str(error)
                with contextlib.suppress(RankError):
                    self._exchange((_TRACED if traced else _FAILED) + text.encode())
                    raise AssertionError from error  # the exchange has raised
                if not self._speaks_for_failed:
                    raise _told(str(error)) from error
            raise

    def _exchange(self, message: bytes) -> list[bytes]:
        if self.control is None:
            return [message[1:]]
        size = torch.tensor([len(message)])
        sizes = [torch.empty_like(size) for _ in range(self.size)]
        distributed.all_gather(sizes, size, group=self.control)
        longest = max(int(each) for each in sizes)
        mine = torch.zeros(longest, dtype=torch.uint8)
        mine[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        texts = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(texts, mine, group=self.control)
        found = [
            text[: int(length)].numpy().tobytes() for text, length in zip(texts, sizes, strict=True)
        ]
        failed = [rank for rank, text in enumerate(found) if text[:1] != _FINE]
        if failed:
            first = failed[0]
            self._speaks_for_failed = first == self.rank
            error = _told(f"rank {first}: {found[first][1:].decode()}")
            others = [rank for rank in range(self.size) if rank not in failed]
            error.is_told = found[first][:1] == _FAILED or others[:1] != [self.rank]
            raise error
        return [text[1:] for text in found]


@contextlib.contextmanager
def joined(device: str, seconds: float) -> Iterator[World]:
    """The world of this process; inside the block it is joined.

    Args:
        device: of the config: "cpu" needs gloo alone.
        seconds: how long to wait for another process before it counts as lost.

    Raises:
        ConfigError: the launch's variables do not fit, or a process does not come.
    """
    with contextlib.ExitStack() as stack:
        is_ours = not (distributed.is_available() and distributed.is_initialized())
        if not is_ours:
            store = default_store()
        elif "RANK" not in os.environ or find_place().world_size == 1:
            yield World()
            return
        else:
            store = stack.enter_context(_group(device, seconds))
        mine = part_of_store(store, f"metronorm/{next(_trainings)}")
        world = World(_control(seconds), mine)
        assert world.lost is not None
        if not is_ours:  # whose processes may have nothing else in common
            stack.enter_context(in_meeting(world.told(lambda: uuid.uuid4().hex)))
        world.lost.start()
        stack.callback(world.lost.stop)
        with world.naming_the_lost():
            yield world
            # not after an error: the others may be gone, or wait for this process elsewhere
            world.barrier()


@contextlib.contextmanager
def _group(device: str, seconds: float) -> Iterator[Store]:
    """The default group of the launch, and its store."""
    gpus = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    meeting = meet(seconds)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        timeout=timedelta(seconds=seconds),
        store=part_of_store(meeting.store, "group"),
        rank=meeting.rank,
        world_size=meeting.size,
    )
    with in_meeting(meeting.name):
        yield meeting.store
    distributed.destroy_process_group()


def _told(message: str) -> RankError:
    """The error of a process whose user is told by another one."""
    error = RankError(message)
    error.is_told = True
    return error


def _control(seconds: float) -> ProcessGroup:
    group: ProcessGroup = distributed.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
    return group
