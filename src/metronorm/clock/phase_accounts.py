"""The accounts of a ledger in Python, for a package that was built without a compiler.

`Accounts`, `Account`, `Pauses` and `all_plain` come from `_ticking` (`csrc/ticking.cpp`) if it was
built. The classes here behave in the same way and take twice as long.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

from metronorm.store.schema import LARGEST_INTEGER

if TYPE_CHECKING:
    from collections.abc import Callable


class PlainAccounts:
    """The time of ticks by account; the same as `_ticking.Accounts`.

    Args:
        now: a monotonic clock in integer nanoseconds.
        rest: the name of the time that no account covers.
        counts: whether an account with this name counts in a thread other than the loop's.
    """

    def __init__(self, now: Callable[[], int], rest: str, counts: Callable[[str], bool]) -> None:
        self._now, self._rest, self._counts = now, rest, counts
        self._thread: int | None = None  # the thread that called `begin`
        self._since = self.last = now()  # all time until here is charged
        self.entered = self._rest_ns = 0
        self.counting = False
        self.all: list[PlainAccount] = []
        self.open: list[PlainAccount] = []  # the innermost last; one may be there several times

    def charge(self) -> None:
        """Charge the time since the last call to the innermost open account, or to the rest."""
        moment = self._now()
        passed = moment - self._since
        self._since = moment
        if self.open:
            self.open[-1].ns += passed
        elif self.counting:
            self._rest_ns += passed

    def begin(self) -> None:
        """From now on time outside of accounts is the rest."""
        self.charge()
        self._thread = get_ident()
        self.counting, self.last = True, self._since

    def pause(self) -> None:
        """From now on time outside of accounts belongs to no tick."""
        self.charge()
        self.counting, self.last = False, self._since

    def close(self) -> tuple[int, dict[str, int]]:
        """End a tick: its nanoseconds, and those of each account; all begin at 0 again."""
        self.charge()
        self.last = self._since
        spent = {account.name: account.ns for account in self.all if account.ns}
        for account in self.all:
            account.ns = 0
        spent[self._rest], self._rest_ns = self._rest_ns, 0
        return sum(spent.values()), spent

    def count_here(self, name: str) -> bool:
        """Whether the account with this name counts in this thread."""
        return self._thread in (None, get_ident()) or self._counts(name)


class PlainAccount:
    """One account; the same as `_ticking.Account`.

    Args:
        accounts: the accounts that it becomes one of.
        name: the name of the phase.
    """

    __slots__ = ("_accounts", "name", "ns")

    def __init__(self, accounts: PlainAccounts, name: str) -> None:
        self._accounts, self.name, self.ns = accounts, name, 0
        accounts.all.append(self)

    def __enter__(self) -> None:
        if self._accounts.count_here(self.name):
            self.enter()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._accounts.count_here(self.name):
            self.leave()

    def enter(self) -> None:
        """Charge the time from now on to this account."""
        accounts = self._accounts
        accounts.charge()
        accounts.open.append(self)
        accounts.entered += 1

    def leave(self) -> None:
        """Charge the time from now on to the account around this one, if there is one."""
        accounts = self._accounts
        accounts.charge()
        if self in accounts.open:
            # accounts inside are left too: a generator may have stopped inside one
            while accounts.open.pop() is not self:
                pass


class PlainPauses:
    """Time in garbage collections; the same as `_ticking.Pauses`.

    Args:
        now: a monotonic clock in integer nanoseconds.
        long_ns: pauses of this length and more are kept one by one.
    """

    def __init__(self, now: Callable[[], int], long_ns: int) -> None:
        self._now, self._long_ns = now, long_ns
        self._since: int | None = None  # the begin of the running collection
        self._spent_ns = 0
        self._longest: list[tuple[int, int, int]] = []

    def notice(self, phase: str, info: dict[str, int]) -> None:
        """A callback for `gc.callbacks`."""
        moment = self._now()
        if phase == "start":
            self._since = moment
        elif self._since is not None:
            since, self._since = self._since, None
            self._spent_ns += moment - since
            if moment - since >= self._long_ns:
                self._longest.append((info["generation"], since, moment - since))

    def take(self) -> int:
        """Nanoseconds in collections since the last call."""
        spent_ns, self._spent_ns = self._spent_ns, 0
        return spent_ns

    def take_longest(self) -> list[tuple[int, int, int]]:
        """Long pauses since the last call: generation, begin and duration in nanoseconds."""
        longest, self._longest = self._longest, []
        return longest


def plain_all_plain(metrics: dict[str, Any], known: set[str]) -> bool:
    """Whether all values are floats or ints of 64 bits and all names are known."""
    return known.issuperset(metrics) and all(
        type(value) is float or (type(value) is int and abs(value) <= LARGEST_INTEGER)
        for value in metrics.values()
    )


try:
    from metronorm.clock._ticking import Account, Accounts, Pauses, all_plain
except ImportError:
    Account, Accounts = PlainAccount, PlainAccounts  # type: ignore[assignment,misc]
    Pauses, all_plain = PlainPauses, plain_all_plain  # type: ignore[assignment,misc]

__all__ = ["Account", "Accounts", "Pauses", "all_plain"]
