"""The processes of a launch find each other, before they make a group.

All of them reach one store, at MASTER_ADDR and MASTER_PORT. A launcher may keep the same store for
the processes that it restarts; so what is found there may be of processes that have ended:

| | a process of rank r | rank 0 |
| --- | --- | --- |
| first | says that it is here: a number of its own | |
| then | | reads all numbers, and proposes a meeting of these |
| then | agrees to a meeting with its own number | |
| at the end | | opens the meeting when all have agreed; until then it may propose others |
| or else | | says who has not come, to the user, and to the numbers that are there |

Nobody is in a meeting with a process that has ended, as that cannot agree.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from torch import distributed

from metronorm.errors import ConfigError, RankError
from metronorm.ranks import find_place
from metronorm.train._torch_private import part_of_store

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # for the checker: it has no public name

_LOOK_SECONDS = 0.02
_MEETING, _REFUSED, _OPEN = "meeting", "refused", "open"


class Meeting(NamedTuple):
    """Processes that have met.

    Attributes:
        store: of these processes alone.
        name: the same for all of them, and of no other meeting.
        rank: of this process.
        size: number of processes.
    """

    store: Store
    name: str
    rank: int
    size: int


class _Here(msgspec.Struct, frozen=True):
    number: str
    size: int


class _Proposal(msgspec.Struct, frozen=True):
    name: str
    numbers: list[str]


def meet(seconds: float) -> Meeting:
    """Meet the other processes of the launch that RANK, WORLD_SIZE and MASTER_ADDR describe.

    Args:
        seconds: how long to wait for the others.

    Raises:
        ConfigError: the variables do not fit, or some processes have not come; on rank 0, or where
            that is not there.
        RankError: on other ranks.
    """
    place = find_place()
    store = _reach(place.rank, seconds)
    here = _Here(uuid.uuid4().hex, place.world_size)
    store.set(f"here/{place.rank}", msgspec.json.encode(here).decode())
    deadline = time.monotonic() + seconds
    if place.rank:
        name = _agree(store, here, place.rank, deadline, seconds)
    else:
        try:
            name = _propose(store, place.world_size, deadline)
        except ConfigError:
            there = [each.number for each in _there(store, place.world_size).values()]
            store.set(_REFUSED, msgspec.json.encode(there).decode())
            raise
    return Meeting(part_of_store(store, name), name, place.rank, place.world_size)


def _reach(rank: int, seconds: float) -> Store:
    """The store of the launch: the launcher keeps it, or rank 0 does."""
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            "a launch must say where its processes meet, in MASTER_ADDR and MASTER_PORT",
            got=f"{address!r} and {port!r}",
            fix="torchrun, or metronorm train --processes N",
        )
    stores: Any = distributed  # whose types do not export the class
    try:
        store: Store = stores.TCPStore(
            address,
            int(port),
            is_master=rank == 0 and not kept,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        taken = "EADDRINUSE" in str(error) or "address already in use" in str(error)
        raise ConfigError(
            f"MASTER_PORT must be free on {address}" if taken else "rank 0 must be there",
            got=f"{port}, which another program has" if taken else f"nobody at {address}:{port}",
            fix="another MASTER_PORT" if taken else None,
        ) from None
    return store


def _propose(store: Store, size: int, deadline: float) -> str:
    """Rank 0: the name of the meeting to which all have agreed."""
    numbers: list[str] = []
    name = ""
    while time.monotonic() < deadline:
        there = _there(store, size)
        other = {rank: each.size for rank, each in there.items() if each.size != size}
        if other:
            rank, theirs = next(iter(other.items()))
            raise ConfigError(
                "all ranks must have the same WORLD_SIZE",
                got=f"{theirs} on rank {rank}, {size} on rank 0",
            )
        found = [each.number for each in there.values()]
        if len(found) == size:
            if found != numbers:
                numbers, name = found, uuid.uuid4().hex
                proposal = msgspec.json.encode(_Proposal(name, numbers))
                store.set(_MEETING, proposal.decode())
            if store.check([f"{name}/agrees/{rank}" for rank in range(1, size)]):
                store.set(f"{name}/{_OPEN}", "yes")
                return name
        time.sleep(max(_LOOK_SECONDS, size / 10_000))  # one reads what all have said
    agreed = {rank for rank in range(1, size) if name and store.check([f"{name}/agrees/{rank}"])}
    there = _there(store, size)
    missing = [rank for rank in range(1, size) if rank not in (agreed if name else there)]
    raise ConfigError(
        f"all {size} processes of a launch must come within --rank-timeout",
        got=f"no rank {', '.join(map(str, missing))}",
        fix="see what they have said; or another WORLD_SIZE",
    )


def _agree(store: Store, here: _Here, rank: int, deadline: float, seconds: float) -> str:
    """Another rank: the name of the meeting that rank 0 has opened."""
    name = ""
    while time.monotonic() < deadline:
        if store.check([_REFUSED]) and here.number in msgspec.json.decode(store.get(_REFUSED)):
            error = RankError("all processes of a launch must meet")
            error.is_told = True
            raise error
        if store.check([_MEETING]):
            proposal = msgspec.json.decode(store.get(_MEETING), type=_Proposal)
            if here.number in proposal.numbers and name != proposal.name:
                name = proposal.name
                store.set(f"{name}/agrees/{rank}", "yes")
        if name and store.check([f"{name}/{_OPEN}"]):
            return name
        time.sleep(_LOOK_SECONDS)
        if time.monotonic() >= deadline and seconds and store.check(["here/0"]):
            deadline, seconds = (
                deadline + seconds + 1,
                0.0,
            )  # it came later, and says who is missing
    raise ConfigError(
        "all processes of a launch must come within --rank-timeout",
        got="no rank 0",
        fix="see what it has said",
    )


def _there(store: Store, size: int) -> dict[int, _Here]:
    """What each rank that is there has said."""
    keys = [f"here/{rank}" for rank in range(size)]
    if not store.check(keys):
        keys = [key for key in keys if store.check([key])]
    return {
        int(key.partition("/")[2]): msgspec.json.decode(text, type=_Here)
        for key, text in zip(keys, store.multi_get(keys), strict=True)
    }
