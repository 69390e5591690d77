"""The board: runs in a web page, while they are written and afterwards (docs/board.md).

`plot` draws runs from Python, such as in a notebook (docs/notebooks.md).
"""

from metronorm.board.figures import plot

__all__ = ["plot"]
