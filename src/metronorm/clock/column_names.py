"""Names of metrics and phases: which names can be columns, and how many there may be."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.store.schema import RESERVED_METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 10_000

_log = logging.getLogger("metronorm")


class Names:
    """The names of metrics that a run has recorded so far."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self._by_lower_case: dict[str, str] = {}
        self._has_warned = False

    def check(self, names: Iterable[str]) -> list[str]:
        """Add new names to `known`; returns those beyond `MOST`, with one warning.

        Raises:
            ConfigError: a name cannot be a column of its own.
        """
        too_many = []
        for name in names:
            if name in self.known:
                continue
            _check(name)
            if len(self.known) < MOST:
                check_case(name, self._by_lower_case)
                self.known.add(name)
            else:
                too_many.append(name)
        if too_many and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "a run records %d names of metrics at most; left out: %r ...; is there a number in "
                "the name that should be a metric itself?",
                MOST,
                too_many[0],
            )
        return too_many


def _check(name: str) -> None:
    if not name or name.lower() in RESERVED_METRICS or name.lower().endswith("_ns"):
        raise ConfigError(
            "a metric's name must not be empty or one of the record's own "
            f"({', '.join(sorted(RESERVED_METRICS))}, names ending in _ns)",
            got=repr(name),
        )
    check_text("a metric's name", name)


def check_text(what: str, name: str) -> None:
    """Check that a column can have this name.

    Args:
        what: what has the name, for the error.
        name: the name.

    Raises:
        ConfigError: the name is invalid Unicode, or has a null character.
    """
    try:
        name.encode()  # half of a surrogate pair has no encoding
    except UnicodeEncodeError:
        valid = False
    else:
        valid = "\0" not in name
    if not valid:
        raise ConfigError(f"{what} must be text", got=repr(name))


def check_case(name: str, by_lower_case: dict[str, str]) -> None:
    """Check that SQL does not take a name for another one, and add it.

    Args:
        name: the name.
        by_lower_case: all names so far, by their lower case.

    Raises:
        ConfigError: another name differs in upper and lower case only.
    """
    same = by_lower_case.setdefault(name.lower(), name)
    if same != name:
        raise ConfigError(
            "names must differ in more than upper and lower case", got=f"{name!r} and {same!r}"
        )
