"""The accounts of a ledger without a compiler: what `csrc/ticking.cpp` does, in Python.

`Accounts`, `Account`, `Pauses` and `all_plain` are those of `_ticking`, where the package was built
with it, and behave alike; these take twice as long.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

from metronorm.store.schema import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable


class PlainAccounts:
    """See `_ticking.Accounts`."""

    def __init__(self, now: Callable[[], int], rest: str, counts: Callable[[str], bool]) -> None:
        self._now, self._rest, self._counts = now, rest, counts
        self._thread: int | None = None  # that began
        self._since = self.last = now()  # until here all time is charged
        self.entered = self._rest_ns = 0
        self.counting = False
        self.all: list[PlainAccount] = []
        self.open: list[PlainAccount] = []  # the innermost last; one may be there twice

    def charge(self) -> None:
        """Charge the time since the last call."""
        moment = self._now()
        passed = moment - self._since
        self._since = moment
        if self.open:
            self.open[-1].ns += passed
        elif self.counting:
            self._rest_ns += passed

    def begin(self) -> None:
        """From now on what no account covers is the rest."""
        self.charge()
        self._thread = get_ident()
        self.counting, self.last = True, self._since

    def pause(self) -> None:
        """From now on what no account covers is nobody's."""
        self.charge()
        self.counting, self.last = False, self._since

    def close(self) -> tuple[int, dict[str, int]]:
        """The time since it was closed last, and that of each account; all begin anew."""
        self.charge()
        self.last = self._since
        spent = {account.name: account.ns for account in self.all if account.ns}
        for account in self.all:
            account.ns = 0
        spent[self._rest], self._rest_ns = self._rest_ns, 0
        return sum(spent.values()), spent

    def count_here(self, name: str) -> bool:
        """Whether what this thread does with the phase counts."""
        return self._thread in (None, get_ident()) or self._counts(name)


class PlainAccount:
    """See `_ticking.Account`."""

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
        accounts = self._accounts
        accounts.charge()
        accounts.open.append(self)
        accounts.entered += 1

    def leave(self) -> None:
        accounts = self._accounts
        accounts.charge()
        if self in accounts.open:
            # those inside are left too: a generator was left in one, for example
            while accounts.open.pop() is not self:
                pass


class PlainPauses:
    """See `_ticking.Pauses`."""

    def __init__(self, now: Callable[[], int], long_ns: int) -> None:
        self._now, self._long_ns = now, long_ns
        self._since: int | None = None  # the collection that runs began
        self._spent_ns = 0
        self._longest: list[tuple[int, int, int]] = []

    def notice(self, phase: str, info: dict[str, int]) -> None:
        moment = self._now()
        if phase == "start":
            self._since = moment
        elif self._since is not None:
            since, self._since = self._since, None
            self._spent_ns += moment - since
            if moment - since >= self._long_ns:
                self._longest.append((info["generation"], since, moment - since))

    def take(self) -> int:
        spent_ns, self._spent_ns = self._spent_ns, 0
        return spent_ns

    def take_longest(self) -> list[tuple[int, int, int]]:
        longest, self._longest = self._longest, []
        return longest


def plain_all_plain(metrics: dict[str, Any], known: set[str]) -> bool:
    """See `_ticking.all_plain`."""
    return known.issuperset(metrics) and all(
        type(value) is float or (type(value) is int and abs(value) <= LARGEST)
        for value in metrics.values()
    )


try:
    from metronorm.clock._ticking import Account, Accounts, Pauses, all_plain
except ImportError:
    Account, Accounts = PlainAccount, PlainAccounts  # type: ignore[assignment,misc]
    Pauses, all_plain = PlainPauses, plain_all_plain  # type: ignore[assignment,misc]

__all__ = ["Account", "Accounts", "Pauses", "all_plain"]
