"""Foreign text, as a run's names and values are, made safe to show to a person."""

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
