"""Metronorm: ticks on record, gradients accumulated exactly, layer normalization done right.

Importing this package loads no framework; import the part you need:
`metronorm.clock`, `metronorm.norm`, `metronorm.models`, `metronorm.data`, `metronorm.train`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
