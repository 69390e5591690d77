"""What goes over the wire: JSON without a lost number, errors, and values of a bearable size.

JSON has no NaN and no infinities: they are the texts "nan", "inf" and "-inf", as in `run.json`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from metronorm.text import flat, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metronorm.errors import MetronormError

MOST_OPTIONS, MOST_LETTERS = 5_000, 2_000


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of the answer."""
        return msgspec.json.encode(_finite(content), enc_hook=str)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else str(value)
        case dict():
            return {str(name): _finite(each) for name, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case int() if abs(value) >= 2**63:  # of a config; a reader would make it a float
            return str(value)
    return value


def problem(error: MetronormError) -> dict[str, str]:
    """An error as the page shows it: what must hold, what arrived, what to try."""
    found = {"error": error.must, "got": error.got, "fix": error.fix}
    return {name: printable(text, multiline=True) for name, text in found.items() if text}


def bounded(config: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """A config by the whole names of its options, long values cut; and how many were left out."""
    options = flat(config)
    names = list(options)[:MOST_OPTIONS]
    return {name: _short(options[name]) for name in names}, len(options) - len(names)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value, MOST_LETTERS)
    if isinstance(value, list | tuple | dict):
        if len(value) > MOST_LETTERS:  # its text would take long to make
            return f"{type(value).__name__} of {len(value):,}"
        text = str(value)
        return value if len(text) <= MOST_LETTERS else shortened(text, MOST_LETTERS)
    return value
