"""Layer and RMS normalization, also in one pass with the residual add before them."""

from metronorm.norm.add_norm import (
    AddLayerNorm,
    AddRMSNorm,
    add_layer_norm,
    add_rms_norm,
    fuse_residuals,
)
from metronorm.norm.kernels import backend
from metronorm.norm.layer_norm import LayerNorm, layer_norm
from metronorm.norm.layer_norm_2d import LayerNorm2d, layer_norm_2d
from metronorm.norm.observe import observe
from metronorm.norm.replace import replace_norms
from metronorm.norm.rms_norm import RMSNorm, rms_norm

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "LayerNorm",
    "LayerNorm2d",
    "RMSNorm",
    "add_layer_norm",
    "add_rms_norm",
    "backend",
    "fuse_residuals",
    "layer_norm",
    "layer_norm_2d",
    "observe",
    "replace_norms",
    "rms_norm",
]
