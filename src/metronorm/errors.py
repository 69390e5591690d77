"""Every error Metronorm raises on purpose.

MetronormError
├── ConfigError             an argument or option that cannot work (also a ValueError)
├── DataError               text, tokens or a corpus that cannot be used
├── RunError                a run directory that is missing, taken, or does not fit
├── CheckpointError         a checkpoint that is damaged or does not fit the model
├── DivergenceError         a training whose loss or gradient is no longer finite
├── OutOfMemoryError        more memory than there is (also a MemoryError)
└── MissingDependencyError  an optional package that is not installed (also an ImportError)

Each says what must hold, what arrived, and what to try, on one line. The command line prints that
line and exits with code 2.
"""

from __future__ import annotations


class MetronormError(Exception):
    """Base of the tree.

    Args:
        must: what must hold ("a corpus must hold at least one context of 256 tokens").
        got: what arrived instead ("12 tokens in a.txt").
        fix: what to try ("add text, or lower --model.context").
    """

    def __init__(self, must: str, *, got: str | None = None, fix: str | None = None) -> None:
        self.must, self.got, self.fix = must, got, fix
        parts = [must]
        if got is not None:
            parts.append(f"got {got}")
        if fix is not None:
            parts.append(f"try: {fix}")
        super().__init__("; ".join(parts))


class ConfigError(MetronormError, ValueError):
    """An argument or option that cannot work."""


class DataError(MetronormError):
    """Text, tokens or a corpus that cannot be used."""


class RunError(MetronormError):
    """A run directory that is missing, taken, or does not fit."""


class CheckpointError(MetronormError):
    """A checkpoint that is damaged or does not fit the model."""


class DivergenceError(MetronormError):
    """A training whose loss or gradient is no longer finite."""


class OutOfMemoryError(MetronormError, MemoryError):
    """More memory than there is."""


class MissingDependencyError(MetronormError, ImportError):
    """An optional package that is not installed."""
