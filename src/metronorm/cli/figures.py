"""The tables of an evaluation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from metronorm.cli.console import Console
from metronorm.text import printable, short_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.finetune.evaluating import Figure
    from metronorm.tasks.text.evaluating import HeldOut


def print_figures(figures: Sequence[Figure]) -> None:
    """Print figures, a line each; of one model alone its value."""
    if not figures:
        return
    both = not math.isnan(figures[0].found.before)
    columns = ("before", "after", "change (95 % interval)") if both else ("",)
    table = Table("", *columns, box=None, pad_edge=False)
    for figure in figures:
        before, after, low, high = map(short_number, figure.found)
        table.add_row(figure.name, *((before, after, f"{low} to {high}") if both else (after,)))
    Console().print(table)


def print_held_out(found: HeldOut) -> None:
    """Print how well a model foretells a text."""
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    seen = f"up to {found.context:,}"
    if found.stride < found.context:
        seen = f"{found.context - found.stride:,} to {found.context:,}"
    for name, value in (
        ("text", found.text),
        ("checkpoint", found.checkpoint),
        ("loss, nats per token", short_number(found.loss)),
        ("perplexity of a token", short_number(found.perplexity)),
        ("bits per token", short_number(found.bits_per_token)),
        ("bits per character", short_number(found.bits_per_character)),
        ("bits per byte", short_number(found.bits_per_byte)),
        ("tokens, each a target once", f"{found.tokens:,}"),
        ("characters, bytes", f"{found.characters:,}, {found.bytes:,}"),
        ("tokens that a target sees", f"{seen} (--stride {found.stride})"),
    ):
        table.add_row(name, Text(printable(value)))
    Console().print(table)
