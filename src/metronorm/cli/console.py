"""Where the commands print."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """Rich's console, which leaves it to the command line what a reader that has gone means."""

    def on_broken_pipe(self) -> None:
        """Called where a BrokenPipeError is handled: let it go on to the caller."""
        raise
