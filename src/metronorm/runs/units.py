"""What a tick counts: metrics of which each rank logs its own share, so that the ranks add up.

Any other metric (a loss, the learning rate, the norm of the gradient, a measure of an evaluation)
is the same on all ranks, or is of one rank only, and is never added up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

UNITS = (
    "tokens", "examples", "images", "samples", "sequences", "words", "characters", "frames",
    "clips", "interactions", "ratings", "pairs", "graphs", "nodes", "rows",
)  # fmt: skip


def units_of(metrics: Collection[str]) -> list[str]:
    """Those of the metrics that count something, the usual ones first."""
    return [unit for unit in UNITS if unit in metrics]
