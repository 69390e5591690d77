"""Metronorm for Keras 3, whatever its backend: `TickCallback` puts the ticks of `fit` on record."""

from __future__ import annotations

from metronorm.errors import MissingDependencyError

try:
    from metronorm.keras.callback import TickCallback
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "keras":
        raise
    raise MissingDependencyError(
        "this needs the package keras", fix="pip install 'metronorm[keras]'"
    ) from None

__all__ = ["TickCallback"]
