"""Where every row and every token of the data went: trained, masked, cut or dropped, by reason.

Rows are counted as they are read, and tokens as they are made. What becomes of them is counted
elsewhere, so that the sums hold only if nothing was lost:

    rows   = rows of each set + rows dropped
    tokens = tokens trained, masked and cut in each set + tokens dropped

A row that is dropped before it becomes tokens has none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from metronorm.files import file_aside
from metronorm.text import counted, printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from metronorm.data.refused import RowRefused
    from metronorm.finetune.rows import Row


class Dropped(NamedTuple):
    """A row that is not used.

    Attributes:
        source: the file.
        line: the line or row in it where the row begins, from 1.
        reason: of which kind it is.
        detail: what is so in this row.
        tokens: that the row had become; 0 if it had become none.
    """

    source: str
    line: int
    reason: str
    detail: str
    tokens: int


@dataclass
class Side:
    """What one set of examples holds.

    Attributes:
        rows: of the data, of which each is at least one example.
        examples: that they became.
        tokens: by what became of them: `trained`, `prompts, weight 0.1`, `masked: prompts`, ...
        rows_cut: rows with examples of which a part was cut.
    """

    rows: int = 0
    examples: int = 0
    rows_cut: int = 0
    tokens: dict[str, int] = field(default_factory=dict)


@dataclass
class Ledger:
    """Where every row and every token went.

    Attributes:
        rows: read, usable or not.
        tokens: made of them.
        sides: what is in each set, by its name: `training`, and perhaps `validation`.
        dropped: the rows that are in none, in the order of the data.
        notes: what is worth knowing and drops nothing, with how often.
        columns: that are taken, by what they are.
        unused_columns: those that are there beside them.
    """

    rows: int = 0
    tokens: int = 0
    sides: dict[str, Side] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    columns: dict[str, str] = field(default_factory=dict)
    unused_columns: tuple[str, ...] = ()

    def drop(self, row: Row, refused: RowRefused, tokens: int = 0) -> None:
        """Count a row that is not used."""
        self.dropped.append(Dropped(row.source, row.line, refused.reason, refused.detail, tokens))

    @property
    def reasons(self) -> dict[str, tuple[int, int]]:
        """Rows and tokens dropped, by reason, the most frequent first."""
        rows: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for each in self.dropped:
            rows[each.reason] += 1
            tokens[each.reason] += each.tokens
        return {reason: (number, tokens[reason]) for reason, number in rows.most_common()}

    def adds_up(self) -> bool:
        """Whether all rows and tokens that came in are accounted for."""
        sides = self.sides.values()
        rows = sum(side.rows for side in sides) + len(self.dropped)
        tokens = sum(sum(side.tokens.values()) for side in sides)
        return (rows, tokens + sum(each.tokens for each in self.dropped)) == (
            self.rows,
            self.tokens,
        )

    def summary(self) -> dict[str, Any]:
        """The ledger in plain values, for a record or a model card."""
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "sets": {
                name: {
                    "rows": side.rows,
                    "examples": side.examples,
                    "rows cut": side.rows_cut,
                    "tokens": dict(side.tokens),
                }
                for name, side in self.sides.items()
            },
            "dropped": {
                reason: {"rows": rows, "tokens": tokens}
                for reason, (rows, tokens) in self.reasons.items()
            },
            "notes": dict(self.notes),
            "columns": self.columns,
            "unused columns": list(self.unused_columns),
        }

    def notices(self) -> list[str]:
        """What is worth knowing beside the table, a line each."""
        taken = ", ".join(f"{kind}={name}" for kind, name in self.columns.items())
        unused = f"; not used: {', '.join(self.unused_columns)}" if self.unused_columns else ""
        columns = [f"columns: {taken}{unused}"] if taken else []
        return [*columns, *(f"{note}: {number:,}" for note, number in self.notes.items())]

    def table(self) -> Table:
        """The ledger as a table for a terminal; the last line is the sum of those above."""
        from rich.table import Table
        from rich.text import Text

        table = Table("", box=None, pad_edge=False)
        for unit in ("rows", "tokens"):
            table.add_column(unit, justify="right")

        def line(name: str, rows: int | None, tokens: int | None, style: str = "") -> None:
            cells = ("" if number is None else f"{number:,}" for number in (rows, tokens))
            table.add_row(Text(printable(name)), *cells, style=style)

        for name, side in self.sides.items():
            examples = f" ({counted(side.examples, 'example')})"
            more = examples if side.examples != side.rows else ""
            line(name + more, side.rows, sum(side.tokens.values()), "bold")
            for kind, tokens in side.tokens.items():
                of = f" ({counted(side.rows_cut, 'row')})" if kind.startswith("cut") else ""
                line(f"  {kind}{of}", None, tokens)
        tokens_dropped = sum(each.tokens for each in self.dropped)
        line("dropped", len(self.dropped), tokens_dropped, "bold")
        for reason, (rows, tokens) in self.reasons.items():
            line(f"  {reason}", rows, tokens)
        line("all that was read", self.rows, self.tokens, "bold")
        return table

    def write_rejects(self, path: Path) -> None:
        """Write the dropped rows as JSON lines: source, line, reason, detail and tokens.

        Raises:
            OSError: the disk is full or the directory cannot be written; `path` is as it was.
        """
        with file_aside(path) as aside, open(aside, "wb") as file:
            file.writelines(msgspec.json.encode(each._asdict()) + b"\n" for each in self.dropped)
