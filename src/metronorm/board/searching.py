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

    from metronorm.board.listing import Entry
    from metronorm.board.query import Query
    from metronorm.board.values import Values

_SECONDS = 5.0


def search(query: Query, entries: Iterable[Entry], values: Values, now_ns: int) -> list[str]:
    """The ids of the runs that fulfil a query."""
    entries = list(entries)
    # a run is read once for all metrics, and only for those that the query names
    values.read(entries, sorted(metrics_of(query)), seconds=_SECONDS)
    if names_of(query) & {*NOT_FINITE}:
        # the record names the metrics that have such a value, and the first of each
        for entry in entries:
            if entry.standing is not None:
                values.read([entry], sorted(entry.standing.not_finite), seconds=_SECONDS)
    return [
        entry.id for entry in entries if matches(query, _Lookup(entry, values, now_ns).values_of)
    ]


class _Lookup:
    """The values that names have in one run; each is read when it is asked for."""

    def __init__(self, entry: Entry, values: Values, now_ns: int) -> None:
        self._entry, self._values = entry, values
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
        found = (self._values.known(self._entry, metric) for metric in self._listed["not_finite"])
        counts = (value.nan if name == "nan" else value.infinite for value in found if value)
        return [count for count in counts if count]

    def _options(self) -> dict[str, Any]:
        if self._config is None:
            self._config = self._entry.config()
        return self._config
