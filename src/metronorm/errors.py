"""The errors that Metronorm raises.

MetronormError
├── ConfigError             an argument or option has a wrong value (also a ValueError)
├── DataError               text, tokens or a corpus cannot be used
├── RunError                a run directory is missing, in use, or does not fit
├── CheckpointError         a checkpoint is damaged or does not fit the model
├── DivergenceError         a loss or gradient of a training is no longer finite
├── RankError               another process of the training has failed or is lost
├── OutOfMemoryError        the machine has too little memory (also a MemoryError)
└── MissingDependencyError  an optional package is not installed (also an ImportError)

StoppedEarly is none of them: a signal has ended a command that has nothing to save yet.

The message of each is one line: what must hold, what arrived, and what to try. The command line
prints it and exits with code 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal


class MetronormError(Exception):
    """Base of all errors of Metronorm.

    Args:
        must: condition that must hold ("a corpus must contain at least one context of 256 tokens").
        got: value that arrived instead ("12 tokens in a.txt"); None: not shown.
        fix: remedy to try ("add text, or lower `--model.context`"); None: not shown.

    Attributes:
        is_told: whether another process of the training tells the user.
    """

    is_told = False

    def __init__(self, must: str, *, got: str | None = None, fix: str | None = None) -> None:
        self.must, self.got, self.fix = must, got, fix
        parts = [must]
        if got is not None:
            parts.append(f"got {got}")
        if fix is not None:
            parts.append(f"try: {fix}")
        super().__init__("; ".join(parts))


class ConfigError(MetronormError, ValueError):
    """An argument or option has a wrong value."""


class DataError(MetronormError):
    """Text, tokens or a corpus cannot be used."""


class RunError(MetronormError):
    """A run directory is missing, in use, or does not fit."""


class CheckpointError(MetronormError):
    """A checkpoint is damaged or does not fit the model."""


class DivergenceError(MetronormError):
    """A loss or gradient of a training is no longer finite.

    Attributes:
        tick: in which; None: it is not known.
    """

    tick: int | None = None


class RankError(MetronormError):
    """Another process of the training has failed or is lost."""


class OutOfMemoryError(MetronormError, MemoryError):
    """The machine has too little memory."""


class MissingDependencyError(MetronormError, ImportError):
    """An optional package is not installed."""


class StoppedEarly(SystemExit):
    """A signal has ended a command that has nothing to save yet; a mistake it is not.

    Args:
        number: of the signal.

    Attributes:
        code: the exit code, 128 + the number.
    """

    code: int

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)
        self._name = number.name

    def __str__(self) -> str:
        return f"stopped by {self._name} before the first tick"
