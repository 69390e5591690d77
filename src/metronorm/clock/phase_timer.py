"""Where the time of a tick went: accounts that add up to its wall time to the nanosecond.

At any moment exactly one account is charged: that of the innermost open phase, else `unattributed`,
else (between two loops) none. A phase is not charged for the phases inside it.

A tick's time is the time of the thread that loops, so only phases of that thread count; see
`other_threads`.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from metronorm.clock.column_names import check_case, check_text
from metronorm.clock.other_threads import works_for_the_loop
from metronorm.clock.phase_accounts import Account, Accounts
from metronorm.errors import ConfigError
from metronorm.store.schema import RESERVED_PHASES, UNATTRIBUTED

if TYPE_CHECKING:
    from collections.abc import Callable


class Phase(AbstractContextManager[None], Protocol):
    """A phase of a ledger; in other threads `with` first asks whether the phase counts there.

    `enter` and `leave` do not ask: hooks call them in threads that the loop waits for.
    """

    def enter(self) -> None:
        """Charge the time from now on to this phase."""

    def leave(self) -> None:
        """Charge the time from now on to the phase around this one, if there is one."""


class Ledger(Accounts):
    """The accounts of one thread's ticks, in host time.

    `phases` makes a phase when its name is first used.

    Args:
        now: a monotonic clock in integer nanoseconds.
        counts: whether a phase with this name counts in a thread other than the loop's.
    """

    def __init__(
        self,
        now: Callable[[], int],
        counts: Callable[[str], bool] = works_for_the_loop,
    ) -> None:
        super().__init__(now, UNATTRIBUTED, counts)
        self.phases = Phases(functools.partial(Account, self))


class Phases(dict[str, Phase]):
    """The phases of a ledger, by name.

    Args:
        account: makes the phase with a name.

    Raises:
        ConfigError: on access, for a name that no phase can have.
    """

    def __init__(self, account: Callable[[str], Phase]) -> None:
        super().__init__()
        self._account = account
        self._by_lower_case: dict[str, str] = {}

    def __missing__(self, name: str) -> Phase:
        if not isinstance(name, str) or name.lower() in RESERVED_PHASES:
            raise ConfigError(
                f"a phase needs a name other than {', '.join(sorted(RESERVED_PHASES - {''}))}",
                got=repr(name),
            )
        check_text("a phase's name", name)
        check_case(name, self._by_lower_case)
        if name.lower() in map(str.lower, self):  # as SQL compares them
            raise ConfigError(
                "names of phases must differ in more than upper and lower case", got=repr(name)
            )
        made = self[name] = self._account(name)
        return made
