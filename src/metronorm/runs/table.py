"""A table of a run: rows as a DuckDB relation, pandas or pyarrow table, or dicts."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.store.parquet_parts import FILE, WITH_FILE, scan
from metronorm.store.schema import FIXED
from metronorm.store.sql_columns import identifier, literal, select

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb

    from metronorm.runs.amendments import Amendments

# up to this number of groups, parts with the same columns are read as a group
MOST_GROUPS = 50
# a part's folders name attempt and rank
PLACE = {
    name: rf"regexp_extract({FILE}, '{name}=(\d+)/(?:rank=\d+/)?[^/]*$', 1)::BIGINT"
    for name in ("attempt", "rank")
}
# the column that `Table.of_run` adds; no metric and no phase can have its name
RUN = FILE


@dataclass(frozen=True)
class Source:
    """Some of a table's rows: those of Parquet parts with the same columns, or those of SQL.

    Args:
        columns: SQL for each column, by its name.
        rows: SQL to be put behind `from`; "" if there are parts.
        parts: the Parquet parts; () if there are rows.
        types: the type of each column of the parts.
    """

    columns: dict[str, str]
    rows: str = ""
    parts: tuple[Path, ...] = ()
    types: dict[str, str] = field(default_factory=dict)


class Table:
    """Rows of a run; the methods of `Run` return it.

    `columns` are the names of its columns. `relation` is a DuckDB relation (lazy, with all of
    DuckDB's methods), `df()` a pandas frame, `arrow()` a pyarrow table, and `sql("select ... from
    ticks")` a relation of a query. In a query the table has the name of the method of `Run`. Every
    column takes time and memory: if a run has thousands of metrics, take only those you need, as
    in `run.ticks().only("tick", "loss")`.
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
        """The names of the phases in a table of ticks; their columns have `_ns` at the end."""
        return [
            name.removesuffix("_ns")
            for name in self.columns
            if name.endswith("_ns") and name not in FIXED["ticks"]
        ]

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics in a table of ticks, and of their columns."""
        return [
            name
            for name in self.columns
            if not name.endswith("_ns") and name not in ("attempt", "rank", *FIXED["ticks"])
        ]

    def only(self, *columns: str) -> Table:
        """The same rows with these columns only; other columns are not read.

        Raises:
            ConfigError: there is no such column.
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

    def of_run(self, run: str) -> Table:
        """The same rows with a column `RUN`, which has this text in every row."""
        sources = [
            replace(source, columns={RUN: literal(run)} | source.columns)
            for source in self._sources
        ]
        return Table(
            self._connection,
            sources,
            [RUN, *self.columns],
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
        """Run SQL over these rows: `run.ticks().sql("select max(loss) from ticks")`.

        Raises:
            duckdb.Error: the query is wrong.
        """
        return cast("duckdb.DuckDBPyRelation", self._rows.query(self._name, query))

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query that begins with `select` or `with`, as `sql(query).fetchall()`.

        DuckDB plans it once, instead of once for each step of a relation: with many columns,
        planning takes most of the time.

        Raises:
            duckdb.Error: the query is wrong.
        """
        first, rest = query.split(None, 1)
        between = f", {rest}" if first == "with" else f" {query}"
        rows = f"with {identifier(self._name)} as ({self._select()})"
        return self._connection.execute(rows + between).fetchall()

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dicts, by the names of the columns."""
        names = self.columns
        return [dict(zip(names, row, strict=True)) for row in self.relation.fetchall()]

    def __repr__(self) -> str:
        return repr(self.relation)

    @cached_property
    def _rows(self) -> duckdb.DuckDBPyRelation:
        return self._connection.sql(self._select())

    def _select(self) -> str:
        """SQL of the rows; sources with the same needed columns are read together."""
        wanted = dict.fromkeys((*self.columns, *self._order.split(", ")))
        amended = self._amendments.wanted(self.columns) if self._amendments else []
        wanted |= dict.fromkeys(amended)
        by_columns: dict[tuple[object, ...], list[Source]] = {}
        for source in self._sources:
            present = [
                (name, source.columns[name], source.types.get(name))
                for name in wanted
                if name in source.columns
            ]
            by_columns.setdefault((source.rows, *present), []).append(source)
        groups, options = list(by_columns.values()), WITH_FILE
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
        selected = ", ".join(map(identifier, self.columns))
        return f"select {selected} from ({everything}) where {self._where}"


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
