"""Layer normalization and its kin: `LayerNorm`, `RMSNorm`."""

from metronorm.norm.layer_norm import LayerNorm
from metronorm.norm.rms_norm import RMSNorm

__all__ = ["LayerNorm", "RMSNorm"]
