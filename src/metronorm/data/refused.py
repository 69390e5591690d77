"""A row that cannot be used: it is counted by its reason, and is no error of the user."""

from __future__ import annotations

from typing import Any

from metronorm.text import printable, shortened


class RowRefused(Exception):  # noqa: N818  (it is no error of the user: the row is counted)
    """A row cannot be used.

    Args:
        reason: of which kind it is: rows are counted by it.
        detail: what is so in this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


def shown(value: Any) -> str:
    """A value in a few printable characters, for a reason."""
    return shortened(printable(repr(value)), 80)
