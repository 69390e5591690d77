"""Metronorm for Keras 3: the same three instruments, whatever its backend.

`TickCallback` puts the ticks of `fit` on record; `Ticks` is an optimizer whose state is the
accumulated gradient, and `windows` weighs its beats; `LayerNormalization` and `RMSNormalization`
normalize.
"""

from __future__ import annotations

from metronorm.errors import MissingDependencyError

try:
    from metronorm.keras.callback import TickCallback
    from metronorm.keras.functional import layer_normalization, rms_normalization
    from metronorm.keras.layers import LayerNormalization, RMSNormalization
    from metronorm.keras.replace import replace_norms
    from metronorm.keras.ticks import Ticks
    from metronorm.keras.windows import windows
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "keras":
        raise
    raise MissingDependencyError(
        "this needs the package keras", fix="pip install 'metronorm[keras]'"
    ) from None

__all__ = [
    "LayerNormalization",
    "RMSNormalization",
    "TickCallback",
    "Ticks",
    "layer_normalization",
    "replace_norms",
    "rms_normalization",
    "windows",
]
