"""Where the time of a tick went: accounts that add up to its wall time to the nanosecond.

The present moment is always charged to exactly one account: the innermost open phase, else
`unattributed`, else (between two loops) nobody's. Of nested phases each is charged its own time.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from metronorm.clock.accounts import Account, Accounts
from metronorm.clock.names import check_case, check_text
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

UNATTRIBUTED = "unattributed"
RESERVED = frozenset({"", UNATTRIBUTED, "time", "wall", "clock", "arrival"})


class Ledger(Accounts):
    """The accounts of one thread's ticks, in host time.

    `phases` makes a phase when it is first asked for one; ConfigError for a name it cannot have.

    Args:
        now: a monotonic clock in integer nanoseconds.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        super().__init__(now, UNATTRIBUTED)
        self.phases = Phases(functools.partial(Account, self))


class Phases(dict[str, AbstractContextManager[None]]):
    """The phases of a ledger, by name; `account` makes one."""

    def __init__(self, account: Callable[[str], AbstractContextManager[None]]) -> None:
        super().__init__()
        self._account = account
        self._by_lower_case: dict[str, str] = {}

    def __missing__(self, name: str) -> AbstractContextManager[None]:
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
        made = self[name] = self._account(name)
        return made
