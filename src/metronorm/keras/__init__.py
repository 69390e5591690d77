"""Metronorm for Keras 3, with any backend: the same three instruments as for torch.

`TickCallback` records the ticks of `fit`. `Ticks` is an optimizer that keeps one number per
parameter, the accumulated gradient, and `windows` gives weights to its beats. `LayerNormalization`
and `RMSNormalization` normalize.
"""

from __future__ import annotations

from metronorm.integrations._packages import needs

with needs("keras", fix="pip install 'metronorm[keras]'"):
    from metronorm.keras.callback import TickCallback
    from metronorm.keras.functional import layer_normalization, rms_normalization
    from metronorm.keras.layers import LayerNormalization, RMSNormalization
    from metronorm.keras.replace import replace_norms
    from metronorm.keras.ticks import Ticks
    from metronorm.keras.windows import windows

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
