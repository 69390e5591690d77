"""What the training thread pays for several times in every tick: `csrc/ticking.cpp`."""

from collections.abc import Callable
from typing import Any, final

class Accounts:
    """Time is charged to the innermost open account, to the nanosecond.

    Without one it is the rest, or (before `begin`, after `pause`) nobody's.

    Args:
        now: a monotonic clock in integer nanoseconds.
        rest: what time that no account covers is called.
        counts: asked in other threads than the one that called `begin`: whether the phase of this
            name, which is opened or closed there, counts.
    """

    def __init__(
        self, now: Callable[[], int], rest: str, counts: Callable[[str], bool], /
    ) -> None: ...
    @property
    def last(self) -> int:
        """When it was begun, paused or closed last."""
    @property
    def entered(self) -> int:
        """How often accounts were opened, in all."""
    @property
    def counting(self) -> bool:
        """Whether what no account covers is the rest now."""
    def begin(self) -> None:
        """From now on what no account covers is the rest."""
    def pause(self) -> None:
        """From now on what no account covers is nobody's."""
    def close(self) -> tuple[int, dict[str, int]]:
        """The time since it was closed last, and that of each account; all begin anew."""

@final
class Account:
    """Is charged while it is open; one may be opened inside another, or inside itself.

    `with` asks whether it counts in this thread; `enter` and `leave` do not.
    """

    def __new__(cls, accounts: Accounts, name: str, /) -> Account: ...
    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, kind: object, error: object, trace: object, /) -> None: ...

class Pauses:
    """The time that Python's garbage collector takes, in whatever thread.

    Args:
        now: a monotonic clock in integer nanoseconds.
        long_ns: collections that take so long are kept one by one.
    """

    def __init__(self, now: Callable[[], int], long_ns: int, /) -> None: ...
    def notice(self, phase: str, info: dict[str, int], /) -> None:
        """To be one of `gc.callbacks`."""
    def take(self) -> int:
        """Nanoseconds of all collections since this was called last."""
    def take_longest(self) -> list[tuple[int, int, int]]:
        """The long ones since then: generation, when each began by `now`, nanoseconds."""

def all_plain(metrics: dict[str, Any], known: set[str], /) -> bool:
    """Whether all names are known, and all values floats, or integers of at most `LARGEST`."""
