"""What a view draws of some series, as arrays and as bytes for the page.

The bytes: 4 with the length of a JSON header (little-endian), the header, padded with spaces so
that what follows begins at a multiple of 8, then the arrays one after another, each padded to 8.

| header | |
| --- | --- |
| `columns` | of each array: `kind`, `type` ("f8", "i4", "u1"), `length`, and `track` or `name` |
| `meta` | the view and the run; `meta.tracks` has the name, kind, counts and neighbours of each |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from metronorm.board.series.pixels import View
    from metronorm.board.series.reducing import Line
    from metronorm.runs.history import LeftBehind

_TYPES: dict[str, np.dtype[Any]] = {
    "f8": np.dtype("<f8"),
    "i4": np.dtype("<i4"),
    "u1": np.dtype("u1"),
}


class Column(NamedTuple):
    """An array of an answer, and what it holds.

    `track` is the number of the line that it is of, `name` that of a phase; None: of neither.
    """

    kind: str
    values: npt.NDArray[Any]
    track: int | None = None
    name: str | None = None


@dataclass
class Reduced:
    """An answer: arrays, and what describes them."""

    columns: list[Column] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        lines: Sequence[tuple[str, LeftBehind | None, Line]],
        view: View,
        meta: dict[str, Any],
    ) -> Reduced:
        """The answer for some lines.

        Args:
            lines: the lines with their names, and by what attempt a ghost was left behind.
            view: the view.
            meta: what else describes them.
        """
        found = cls()
        tracks = []
        for number, (name, left, line) in enumerate(lines):
            found.columns += [Column(key, array, number) for key, array in line.arrays.items()]
            ghost = left and {"attempt": left.attempt, "by": left.by.attempt}
            track: dict[str, Any] = {"name": name, "kind": line.kind, "ghost": ghost}
            track |= line.counts
            track |= {"before": line.before, "after": line.after}
            track |= {"first_nan": line.first_nan, "first_bad": line.first_bad}
            tracks.append(track)
        shown = {key: getattr(view, key) for key in ("begin", "end", "width", "left", "ratio")}
        found.meta = {**meta, **shown, "tracks": tracks}
        return found

    def to_bytes(self) -> bytes:
        """The answer as bytes, in the form of this module."""
        described, pieces = [], []
        for kind, values, track, name in self.columns:
            form = {"f": "f8", "i": "i4", "u": "u1"}[values.dtype.kind]
            data = values.astype(_TYPES[form]).tobytes()
            pieces.append(data + bytes(-len(data) % 8))
            entry = {"kind": kind, "name": name, "track": track}
            entry = {key: value for key, value in entry.items() if value is not None}
            described.append(entry | {"type": form, "length": len(values)})
        header = msgspec.json.encode({"columns": described, "meta": self.meta})
        header += b" " * (-(4 + len(header)) % 8)
        return b"".join([len(header).to_bytes(4, "little"), header, *pieces])
