"""What the training thread pays for several times in every tick: `csrc/ticking.cpp`."""

from collections.abc import Callable
from typing import Any, final

class Accounts:
    """Time is charged to the innermost open account, to the nanosecond.

    Without one it is the rest, or (before `begin`, after `pause`) nobody's.

    Args:
        now: a monotonic clock in integer nanoseconds.
        rest: what time that no account covers is called.
    """

    def __init__(self, now: Callable[[], int], rest: str, /) -> None: ...
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
    """Is charged while it is open; one may be opened inside another, or inside itself."""

    def __new__(cls, accounts: Accounts, name: str, /) -> Account: ...
    def __enter__(self) -> None: ...
    def __exit__(self, kind: object, error: object, trace: object, /) -> None: ...

def all_plain(metrics: dict[str, Any], known: set[str], /) -> bool:
    """Whether all names are known, and all values floats, or integers of at most `LARGEST`."""
