"""Where the time of a tick went: accounts that add up to its wall time to the nanosecond.

The present moment is always charged to exactly one account: the innermost open phase, else
`unattributed`, else (between two loops) nobody's. Of nested phases each is charged its own time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.clock.names import check_case, check_text
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.clock.device_ledger import DevicePhases

UNATTRIBUTED = "unattributed"
RESERVED = frozenset({"", UNATTRIBUTED, "time", "wall", "clock", "arrival"})


class Ledger:
    """The accounts of one thread's ticks, in host time.

    `phases` makes a phase when it is first asked for one; ConfigError for a name it cannot have.

    Args:
        now: a monotonic clock in integer nanoseconds.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.last = now()
        self.phases = Phases(self)
        self.entered = 0  # how often phases were, in all
        self.counting = False  # whether time that no phase covers is a tick's
        self.unattributed = Account(self)
        self.idle = Account(self)
        self.bottom = self.top = self.idle  # the top one is charged

    def account(self, name: str) -> Account:
        """A new phase."""
        return Account(self)

    def begin(self) -> None:
        """From now on what no phase covers is `unattributed`."""
        self.counting = True
        self._change(self.unattributed)

    def pause(self) -> None:
        """From now on what no phase covers is nobody's."""
        self.counting = False
        self._change(self.idle)

    def close(self) -> tuple[int, dict[str, int] | DevicePhases]:
        """End the tick now, where the next one starts: its wall time and its accounts, in ns."""
        open_ = self._leave_all() if self.top is not self.bottom else ()
        self._charge()
        rest = self.unattributed
        wall_ns = rest.ns
        spent = {}
        for name, account in self.phases.items():
            ns = account.ns
            if ns:
                spent[name] = ns
                wall_ns += ns
                account.ns = 0
        spent[UNATTRIBUTED] = rest.ns
        rest.ns = 0
        for account in open_:
            account.__enter__()
        return wall_ns, spent

    def _charge(self) -> None:
        moment = self.now()
        self.bottom.ns += moment - self.last
        self.last = moment

    def _change(self, bottom: Account) -> None:
        open_ = self._leave_all()
        self._charge()
        self.bottom = self.top = bottom
        for account in open_:
            account.__enter__()

    def _leave_all(self) -> list[Account]:
        left: list[Account] = []
        while self.top is not self.bottom:
            left.insert(0, self.top)
            self.top.__exit__(None, None, None)
        return left


class Account:
    """Nanoseconds of one phase in the running tick; while entered, it is the one charged."""

    __slots__ = ("_again", "_ledger", "_outer", "_since", "ns")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.ns = self._since = 0
        self._outer: Account | None = None
        self._again: list[tuple[Account, int]] = []

    def __enter__(self) -> None:
        ledger = self._ledger
        if self._outer is not None:  # a phase inside itself
            self._again.append((self._outer, self._since))
        self._outer = ledger.top
        ledger.top = self
        ledger.entered += 1
        self._since = ledger.now()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        ledger = self._ledger
        if ledger.top is not self:  # a generator that was left inside a phase, for example
            if self._outer is None:
                return
            while ledger.top is not self:
                ledger.top.__exit__(None, None, None)
        spent = ledger.now() - self._since
        self.ns += spent
        outer = self._outer
        outer.ns -= spent  # type: ignore[union-attr]
        ledger.top = outer  # type: ignore[assignment]
        if self._again:
            self._outer, self._since = self._again.pop()
        else:
            self._outer = None


class Phases(dict[str, Account]):
    """The phases of a ledger, by name."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._by_lower_case: dict[str, str] = {}

    def __missing__(self, name: str) -> Account:
        if not isinstance(name, str) or name.lower() in RESERVED:
            raise ConfigError(
                f"a phase needs a name other than {', '.join(sorted(RESERVED - {''}))}",
                got=repr(name),
            )
        check_text("a phase's name", name)
        check_case(name, self._by_lower_case)
        if name.lower() in map(str.lower, self):  # as SQL compares them
            raise ConfigError(
                "names of phases must differ in more than upper and lower case", got=repr(name)
            )
        made = self[name] = self._ledger.account(name)
        return made
