"""Where every document and every byte of a text went: training, held out, or left out, by reason.

What comes in is counted while it is read, and what becomes of it where it is written or left out,
so the sums hold only if nothing was lost:

    read = training + held out - cut in two + left out

Bytes are those of the text: of a file of text as it lies there, of rows as UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from metronorm.data.build import Split


class Count(msgspec.Struct):
    """Documents, and the bytes of their text."""

    documents: int = 0
    bytes: int = 0

    def add(self, documents: int, of_bytes: int) -> None:
        """Count more of them."""
        self.documents += documents
        self.bytes += of_bytes


class Ledger(msgspec.Struct):
    """What was read, and what of it was left out."""

    read: Count = msgspec.field(default_factory=Count)
    """All that the files hold, usable or not."""
    left_out: dict[str, Count] = {}
    """Documents that are neither in training nor held out, by reason. What is no text has no
    bytes."""
    cut: int = 0
    """Documents of which the end is held out: they are counted on both sides."""
    passed_over: dict[str, int] = {}
    """Files and folders in the sources that were not read, by reason."""

    def leave_out(self, reason: str, documents: int = 1, of_bytes: int = 0) -> None:
        """Count documents that are left out."""
        if documents:
            self.left_out.setdefault(reason, Count()).add(documents, of_bytes)

    def adds_up(self, train: Split, validation: Split) -> bool:
        """Whether all that was read is accounted for."""
        left = self.left_out.values()
        documents = train.documents + validation.documents - self.cut
        in_bytes = train.bytes + validation.bytes
        return (
            documents + sum(each.documents for each in left) == self.read.documents
            and in_bytes + sum(each.bytes for each in left) == self.read.bytes
        )
