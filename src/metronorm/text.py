"""Foreign text made safe to show, and numbers as people read them."""

from __future__ import annotations

import unicodedata

# which join and part letters in Persian, Hindi and emoji, and steer nothing
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def printable(text: str, *, multiline: bool = False) -> str:
    r"""Text in which everything that a reader would not see, or a terminal would obey, is visible.

    Control characters, escapes of the terminal, marks that turn the direction of writing, single
    surrogates and the like become what Python writes for them: `\x1b`, `\u202e`. Letters, signs
    and spaces of all languages stay. It says nothing about markup: for Rich and Textual give the
    result to `rich.text.Text`.

    Args:
        text: of any origin.
        multiline: keep tabs and line breaks.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if _is_harmless(sign) or (multiline and sign in "\t\n") else _visible(sign)
        for sign in text
    )


def _is_harmless(sign: str) -> bool:
    # (a space other than the usual one is not printable for Python)
    return sign.isprintable() or sign in _JOINERS or unicodedata.category(sign) == "Zs"


def _visible(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def shortened(text: str, length: int) -> str:
    """Text of at most `length` characters; of a longer one beginning and end, which differ."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def short_time(ns: float) -> str:
    """Nanoseconds in the unit that suits, three digits of it: "4.16 µs", "31 ms", "4.5 min"."""
    for unit, size in (("h", 3600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6)):
        if abs(ns) >= size:
            return f"{three_digits(ns / size)} {unit}"
    return f"{three_digits(ns / 1e3)} µs"


def three_digits(value: float) -> str:
    """Three digits, and never an exponent: "0.0416", "31", "12,000"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short_number(value: float) -> str:
    """A loss or the like, in at most ten characters: "2.3026", "3e-06", "nan"."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 10_000 or value == 0 else f"{value:.4g}"
