"""Rows of a run, in whatever form they are wanted."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, cast

from metronorm.clock.store.columns import FIXED
from metronorm.errors import MissingDependencyError

if TYPE_CHECKING:
    import duckdb


class Table:
    """Rows of a run, as a DuckDB relation.

    `relation` is the relation itself, in order (lazy, all of DuckDB's methods); `df()` is a pandas
    frame, `arrow()` a pyarrow table, `sql("select ... from ticks")` another relation over these
    rows, under the name the method of `Run` has.
    """

    def __init__(self, rows: duckdb.DuckDBPyRelation, name: str, order: str) -> None:
        self._rows = rows
        self._name = name
        self._order = order

    @property
    def relation(self) -> duckdb.DuckDBPyRelation:
        """The rows in order."""
        return self._rows.order(self._order)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._rows.columns)

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

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dicts."""
        names = self.columns
        return [dict(zip(names, row, strict=True)) for row in self.relation.fetchall()]

    def __repr__(self) -> str:
        return repr(self.relation)


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"this needs the package {package}", fix="pip install 'metronorm[analysis]'"
        )
