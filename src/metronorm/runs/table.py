"""Rows of a run, in whatever form they are wanted."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.store.parquet_parts import scan
from metronorm.store.schema import FIXED
from metronorm.store.sql_columns import identifier, select

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb

    from metronorm.runs.amendments import Amendments

# up to so many groups of parts with the same columns each is read by itself
MOST_GROUPS = 50
# the column that says where a part lies: its place is in the names of its folders
_FILE = "metronorm: file"
_FILE_COLUMN = f"hive_partitioning = false, filename = '{_FILE}'"
PLACE = {
    name: rf"""regexp_extract("{_FILE}", '{name}=(\d+)/(?:rank=\d+/)?[^/]*$', 1)::BIGINT"""
    for name in ("attempt", "rank")
}


@dataclass(frozen=True)
class Source:
    """Some of a table's rows: of Parquet parts with the same columns, or what SQL names.

    `columns` has SQL for each column by its name, `forms` how parts hold it.
    """

    columns: dict[str, str]
    rows: str = ""
    parts: tuple[Path, ...] = ()
    forms: dict[str, str] = field(default_factory=dict)


class Table:
    """Rows of a run, as a DuckDB relation.

    `columns` are their names. `relation` is the relation itself, in order (lazy, all of DuckDB's
    methods); `df()` is a pandas frame, `arrow()` a pyarrow table, `sql("select ... from ticks")`
    another relation over these rows, under the name the method of `Run` has. Every column has its
    price: of a run with thousands of metrics ask `run.ticks().only("tick", "loss")`.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        sources: list[Source],
        columns: list[str],
        *,
        name: str,
        order: str,
        where: str = "true",
        amendments: Amendments | None = None,
    ) -> None:
        self.columns = columns
        self._connection, self._sources = connection, sources
        self._name, self._order, self._where = name, order, where
        self._amendments = amendments

    @property
    def phases(self) -> list[str]:
        """Of ticks: the names of the phases; their columns end in `_ns`."""
        return [
            name.removesuffix("_ns")
            for name in self.columns
            if name.endswith("_ns") and name not in FIXED["ticks"]
        ]

    @property
    def metrics(self) -> list[str]:
        """Of ticks: the names of the metrics, which are those of their columns."""
        return [
            name
            for name in self.columns
            if not name.endswith("_ns") and name not in ("attempt", "rank", *FIXED["ticks"])
        ]

    def only(self, *columns: str) -> Table:
        """The same rows with some of their columns: what is asked of it costs those alone.

        Raises:
            ConfigError: no such column.
        """
        missing = set(columns).difference(self.columns)
        if missing:
            raise ConfigError(
                "there must be a column of every name", got=", ".join(sorted(map(repr, missing)))
            )
        return Table(
            self._connection,
            self._sources,
            list(dict.fromkeys(columns)),
            name=self._name,
            order=self._order,
            where=self._where,
            amendments=self._amendments,
        )

    @property
    def relation(self) -> duckdb.DuckDBPyRelation:
        """The rows in order."""
        return self._connection.sql(f"{self._select()} order by {self._order}")

    def df(self) -> Any:
        """All rows as a `pandas.DataFrame`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        _require("pandas")
        return self.relation.df()

    def arrow(self) -> Any:
        """All rows as a `pyarrow.Table`.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        _require("pyarrow")
        return self.relation.to_arrow_table()

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Run SQL over these rows: `run.ticks().sql("select max(loss) from ticks")`."""
        return cast("duckdb.DuckDBPyRelation", self._rows.query(self._name, query))

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """What `sql(query).fetchall()` gives, for a query that begins with `select` or `with`.

        DuckDB plans it once, and not for each step of a relation: of many columns that is most of
        the time.
        """
        first, rest = query.split(None, 1)
        between = f", {rest}" if first == "with" else f" {query}"
        rows = f"with {identifier(self._name)} as ({self._select()})"
        return self._connection.execute(rows + between).fetchall()

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dicts."""
        names = self.columns
        return [dict(zip(names, row, strict=True)) for row in self.relation.fetchall()]

    def __repr__(self) -> str:
        return repr(self.relation)

    @cached_property
    def _rows(self) -> duckdb.DuckDBPyRelation:
        return self._connection.sql(self._select())

    def _select(self) -> str:
        """SQL of the rows. Parts in which what is wanted is the same are read together."""
        wanted = dict.fromkeys((*self.columns, *self._order.split(", ")))
        amended = self._amendments.wanted(self.columns) if self._amendments else []
        wanted |= dict.fromkeys(amended)
        alike: dict[tuple[object, ...], list[Source]] = {}
        for source in self._sources:
            have = [
                (name, source.columns[name], source.forms.get(name))
                for name in wanted
                if name in source.columns
            ]
            alike.setdefault((source.rows, *have), []).append(source)
        groups, options = list(alike.values()), _FILE_COLUMN
        if len(groups) > MOST_GROUPS:
            groups = [[source] for source in self._sources if source.rows]
            groups.append([source for source in self._sources if source.parts])
            options += ", union_by_name = true"
        everything = " union all by name ".join(
            f"({_rows_of(group, wanted, options)})" for group in groups
        )
        if self._amendments and amended:
            known = {name for source in self._sources for name in source.columns}
            rows = f"select * from ({everything}) where {self._where}"
            return self._amendments.amend(rows, self.columns, known)
        listed = ", ".join(map(identifier, self.columns))
        return f"select {listed} from ({everything}) where {self._where}"


def _rows_of(sources: list[Source], wanted: Iterable[str], options: str) -> str:
    known = {name: sql for source in sources for name, sql in source.columns.items()}
    columns = select({name: known[name] for name in wanted if name in known})
    parts = [part for source in sources for part in source.parts]
    return f"select {columns} from {scan(parts, options) if parts else sources[0].rows}"


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"this needs the package {package}", fix="pip install 'metronorm[analysis]'"
        )
