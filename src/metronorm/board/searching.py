"""The values of a run that a query asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.board.query import (
    FLAGS,
    NOT_FINITE,
    OWN_NAMES,
    matches,
    metric_of,
    metrics_of,
    names_of,
)
from metronorm.board.values import value_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.board.entry import Entry
    from metronorm.board.not_finite import Bad, NotFinite
    from metronorm.board.query import Query
    from metronorm.board.values import Values

_SECONDS = 5.0


def search(
    query: Query, entries: Iterable[Entry], values: Values, not_finite: NotFinite, now_ns: int
) -> tuple[list[str], int]:
    """The ids of the runs that fulfil a query, and how many runs are left to read."""
    entries = list(entries)
    # before values are read: a run that is looked at meanwhile has not been read yet
    left = {entry.id for entry in entries if entry.is_unread}
    # a run is read once for all metrics, and only for those that the query names
    waiting = values.read(entries, sorted(metrics_of(query)), seconds=_SECONDS)
    left.update(entry.id for entry in waiting)
    bad: dict[str, Bad] = {}
    if names_of(query) & {*NOT_FINITE}:
        bad = not_finite.find(entries, seconds=_SECONDS)
        left.update(entry.id for entry in entries if entry.id not in bad)
    found = [
        entry.id
        for entry in entries
        if matches(query, _Lookup(entry, values, bad.get(entry.id), now_ns).values_of)
    ]
    return found, len(left)


class _Lookup:
    """The values that names have in one run; each is read when it is asked for."""

    def __init__(self, entry: Entry, values: Values, bad: Bad | None, now_ns: int) -> None:
        self._entry, self._values, self._bad = entry, values, bad
        self._listed = entry.listed(now_ns)
        self._config: dict[str, Any] | None = None

    def values_of(self, name: str) -> list[Any]:
        """As `metronorm.board.query.matches` wants them."""
        listed = self._listed
        if name == "":
            return [listed["name"], listed["folder"], listed["note"], *listed["tags"]]
        if name.startswith("has:"):
            return self._has(name.removeprefix("has:"))
        if name in FLAGS:
            return [bool(listed[name])]
        if name == "tag":
            return [*listed["tags"]]
        if name == "state":
            return [listed["state"] or "", *(["stalled"] if listed["stalled"] else [])]
        if name == "age":
            return [] if listed["age_ns"] is None else [listed["age_ns"] / 1e9]
        if name in OWN_NAMES:
            return [] if listed[name] is None else [listed[name]]
        if name.startswith("config."):
            config = self._options()
            option = name.removeprefix("config.")
            return [config[option]] if option in config else []
        metric = metric_of(name)
        known = self._values.known(self._entry, metric[1]) if metric else None
        if metric is None or known is None:
            return []
        value = value_of(known, metric[0], metric[1], self._options())
        return [] if value is None else [value]

    def _has(self, name: str) -> list[Any]:
        if f"has:{name}" not in NOT_FINITE:
            return self.values_of(name)
        return [True] if self._bad is not None and getattr(self._bad, name) else []

    def _options(self) -> dict[str, Any]:
        if self._config is None:
            self._config = self._entry.config()
        return self._config
