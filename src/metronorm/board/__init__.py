"""The board: runs in a web page, while they are written and afterwards (docs/board.md)."""

__all__: list[str] = []
