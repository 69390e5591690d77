"""Where the time of a tick went: accounts that add up to its wall time to the nanosecond.

The present moment is always charged to exactly one account: the innermost open phase, else
`unattributed`, else (between two loops) nobody's. Of nested phases each is charged its own time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

UNATTRIBUTED = "unattributed"


class Ledger:
    """The accounts of one thread's ticks.

    Args:
        now: a monotonic clock in integer nanoseconds.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.last = now()
        self.phases: dict[str, Account] = {}
        self.unattributed = Account(self, UNATTRIBUTED)
        self.idle = Account(self, "idle")
        self.charged = self.idle
        self.outer: list[Account] = []

    def open(self, name: str) -> Account:
        """A new phase.

        Raises:
            ConfigError: an empty name, or one whose column the record needs itself.
        """
        if not name or name in (UNATTRIBUTED, "time", "wall"):
            raise ConfigError(
                f"a phase needs a name other than {UNATTRIBUTED!r}, 'time' and 'wall'",
                got=repr(name),
            )
        return self.phases.setdefault(name, Account(self, name))

    def begin(self) -> None:
        """From now on what no phase covers is `unattributed`."""
        self._pass_on(self.idle, self.unattributed)

    def pause(self) -> None:
        """From now on what no phase covers is nobody's."""
        self._pass_on(self.unattributed, self.idle)

    def close(self) -> tuple[int, dict[str, int]]:
        """End the tick now, where the next one starts: its wall time and its accounts, in ns."""
        moment = self.now()
        self.charged.ns += moment - self.last
        self.last = moment
        spent = {}
        wall_ns = 0
        for name, account in self.phases.items():
            if account.ns:
                spent[name] = account.ns
                wall_ns += account.ns
                account.ns = 0
        rest = self.unattributed
        spent[UNATTRIBUTED] = rest.ns
        wall_ns += rest.ns
        rest.ns = 0
        return wall_ns, spent

    def _pass_on(self, old: Account, new: Account) -> None:
        moment = self.now()
        self.charged.ns += moment - self.last
        self.last = moment
        if self.charged is old:
            self.charged = new
        self.outer = [new if account is old else account for account in self.outer]


class Account:
    """Nanoseconds of one phase in the running tick; while entered, it is the one charged."""

    __slots__ = ("_ledger", "name", "ns")

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self.name = name
        self.ns = 0

    def __enter__(self) -> None:
        ledger = self._ledger
        moment = ledger.now()
        charged = ledger.charged
        charged.ns += moment - ledger.last
        ledger.last = moment
        ledger.outer.append(charged)
        ledger.charged = self

    def __exit__(self, *exception: object) -> None:
        ledger = self._ledger
        moment = ledger.now()
        self.ns += moment - ledger.last
        ledger.last = moment
        ledger.charged = ledger.outer.pop()
