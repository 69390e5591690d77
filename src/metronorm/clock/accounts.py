"""The accounts of a ledger without a compiler: what `csrc/ticking.cpp` does, in Python.

`Accounts`, `Account` and `all_plain` are those of `_ticking`, where the package was built with it,
and behave alike; these take twice as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.clock.record import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable


class PlainAccounts:
    """See `_ticking.Accounts`."""

    def __init__(self, now: Callable[[], int], rest: str) -> None:
        self._now, self._rest = now, rest
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


class PlainAccount:
    """See `_ticking.Account`."""

    __slots__ = ("_accounts", "name", "ns")

    def __init__(self, accounts: PlainAccounts, name: str) -> None:
        self._accounts, self.name, self.ns = accounts, name, 0
        accounts.all.append(self)

    def __enter__(self) -> None:
        accounts = self._accounts
        accounts.charge()
        accounts.open.append(self)
        accounts.entered += 1

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        accounts = self._accounts
        accounts.charge()
        if self in accounts.open:
            # those inside are left too: a generator was left in one, for example
            while accounts.open.pop() is not self:
                pass


def plain_all_plain(metrics: dict[str, Any], known: set[str]) -> bool:
    """See `_ticking.all_plain`."""
    return known.issuperset(metrics) and all(
        type(value) is float or (type(value) is int and abs(value) <= LARGEST)
        for value in metrics.values()
    )


try:
    from metronorm.clock._ticking import Account, Accounts, all_plain
except ImportError:
    Account, Accounts = PlainAccount, PlainAccounts  # type: ignore[assignment,misc]
    all_plain = plain_all_plain

__all__ = ["Account", "Accounts", "all_plain"]
