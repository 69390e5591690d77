"""Code that runs on the training thread several times in every tick: `csrc/ticking.cpp`."""

from collections.abc import Callable
from typing import Any, final

class Accounts:
    """The time of ticks by account: the innermost open account is charged, to the nanosecond.

    Time outside of accounts is the rest; before `begin` and after `pause` it belongs to no tick.

    Args:
        now: a monotonic clock in integer nanoseconds.
        rest: the name of the time outside of accounts.
        counts: called in threads other than the one that called `begin`, with the name of an
            account that such a thread opens or closes: whether it counts there.
    """

    def __init__(
        self, now: Callable[[], int], rest: str, counts: Callable[[str], bool], /
    ) -> None: ...
    @property
    def last(self) -> int:
        """The time of the last call of `begin`, `pause` or `close`."""
    @property
    def entered(self) -> int:
        """How often accounts were opened, in all."""
    @property
    def counting(self) -> bool:
        """Whether time outside of accounts is the rest now."""
    def begin(self) -> None:
        """From now on time outside of accounts is the rest."""
    def pause(self) -> None:
        """From now on time outside of accounts belongs to no tick."""
    def close(self) -> tuple[int, dict[str, int]]:
        """End a tick: its nanoseconds, and those of each account; all begin at 0 again."""

@final
class Account:
    """One account, charged while it is open; it may be opened inside another, or inside itself.

    `with` checks whether the account counts in this thread; `enter` and `leave` do not.
    """

    def __new__(cls, accounts: Accounts, name: str, /) -> Account: ...
    def enter(self) -> None:
        """Charge the time from now on to this account."""
    def leave(self) -> None:
        """Charge the time from now on to the account around this one, if there is one."""
    def __enter__(self) -> None: ...
    def __exit__(self, kind: object, error: object, trace: object, /) -> None: ...

class Pauses:
    """The time of Python's garbage collector, in any thread.

    Args:
        now: a monotonic clock in integer nanoseconds.
        long_ns: pauses of this length and more are kept one by one.
    """

    def __init__(self, now: Callable[[], int], long_ns: int, /) -> None: ...
    def notice(self, phase: str, info: dict[str, int], /) -> None:
        """A callback for `gc.callbacks`."""
    def take(self) -> int:
        """Nanoseconds in collections since the last call."""
    def take_longest(self) -> list[tuple[int, int, int]]:
        """Long pauses since the last call: generation, begin and duration in nanoseconds."""

def all_plain(metrics: dict[str, Any], known: set[str], /) -> bool:
    """Whether all values are floats or ints of 64 bits, and all names are known."""
