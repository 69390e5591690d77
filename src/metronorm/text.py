"""Text for people: foreign text made safe to show, numbers with units, the nearest known word."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

# They join and separate letters in Persian, Hindi and emoji, and control nothing.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def printable(text: str, *, multiline: bool = False) -> str:
    r"""The text with every invisible character, and every one that controls a terminal, escaped.

    Control characters, escape sequences, marks that change the direction of writing, and single
    surrogates become what Python writes for them: `\x1b`, `\u202e`. Letters, signs and spaces of
    all languages stay. Markup is not escaped: give the result to `rich.text.Text` for Rich and
    Textual.

    Args:
        text: text from any source.
        multiline: whether tabs and line breaks stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if _is_harmless(sign) or (multiline and sign in "\t\n") else _visible(sign)
        for sign in text
    )


def _is_harmless(sign: str) -> bool:
    # str.isprintable() is False for all spaces but the usual one
    return sign.isprintable() or sign in _JOINERS or unicodedata.category(sign) == "Zs"


def _visible(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def shortened(text: str, length: int) -> str:
    """The text, cut in the middle to at most `length` characters: "beginn…the end"."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def three_digits(value: float) -> str:
    """A number with three digits and without an exponent: "0.0416", "31", "12,000"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short_number(value: float) -> str:
    """A loss or a similar number in at most ten characters: "2.3026", "3e-06", "nan"."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 10_000 or value == 0 else f"{value:.4g}"


def short_value(value: float) -> str:
    """Any number in at most ten characters, without places that say nothing: "128", "0.1387"."""
    return f"{value:.0f}" if abs(value) < 1e9 and value == int(value) else short_number(value)


def short_time(ns: float) -> str:
    """Nanoseconds in the best unit, with three digits: "4.16 µs", "31 ms", "4.5 min"."""
    for unit, ns_per_unit in (("h", 3600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6)):
        if abs(ns) >= ns_per_unit:
            return f"{three_digits(ns / ns_per_unit)} {unit}"
    return f"{three_digits(ns / 1e3)} µs"


def hours_minutes(seconds: float) -> str:
    """Seconds as a clock shows them: "1:02:03", or "2:03" if it is less than an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Bytes in the best unit, with three digits: "512 MiB"."""
    for unit, bytes_per_unit in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= bytes_per_unit:
            return f"{three_digits(count / bytes_per_unit)} {unit}"
    return f"{three_digits(count)} bytes"


def parse_size(text: str) -> int:
    """Bytes from "3GiB", "3000 MiB", "2.5GB" or "64000000".

    Raises:
        ConfigError: the text is no size above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmgt]?)(i?)(b?)", text.strip(), re.I | re.ASCII)
    number = 0.0
    if found and not (found[3] and not found[2]):
        base = 1024 if found[3] or not found[4] else 1000  # "3G" is 3 GiB
        number = float(found[1]) * base ** "bkmgt".index(found[2].lower() or "b")
    if not 1 <= number < 2**63:
        raise ConfigError(
            "a size of memory must be a number with its unit", got=repr(text), fix="3GiB"
        )
    return int(number)


def counted(number: int, name: str) -> str:
    """A number of things: "1 tick", "12,000 ticks"."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def of_planned(ticks: int, planned: int | None) -> str:
    """How many ticks are done, and of how many, if that is known and not the same.

    >>> of_planned(1200, 2400), of_planned(2400, 2400), of_planned(3, None)
    ('1,200 of 2,400', '2,400', '3')
    """
    return f"{ticks:,}" if planned in (None, ticks) else f"{ticks:,} of {planned:,}"


def percent(share: float) -> str:
    """A share of 1 in percent, with three digits: "3.21%"."""
    value = 100 * share
    return "0%" if abs(value) < 1e-6 else f"{three_digits(value)}%"  # 1e-6: an error of rounding


def parse_percent(text: str) -> float:
    """A share of 1 from "5%" or "0.05".

    Raises:
        ConfigError: the text is not a number, is below 0, or is 1 or more without a percent sign.
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError("a limit must be a percentage of at least 0", got=repr(text), fix="5%")
    if value >= 1 and not text.strip().endswith("%"):
        raise ConfigError(
            "a limit of 1 or more needs a percent sign", got=repr(text), fix=f"{number}%"
        )
    return value


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that a misspelled or shortened word probably means; None if no choice is near.

    "trian" means "train", "FP16" means "fp16", and "muon" means "ticks_muon" where no other choice
    contains it.
    """
    import difflib  # needed after a mistake only

    originals = {choice.lower(): choice for choice in choices}
    word = word.lower()
    near = difflib.get_close_matches(word, originals, n=1)
    if not near and word:
        near = [choice for choice in originals if word in choice]
    return originals[near[0]] if len(near) == 1 else None


def flat(values: Mapping[str, Any], between: str = ".") -> dict[str, Any]:
    """Nested values by their whole names: `{"a": {"b": 1}}` becomes `{"a.b": 1}`.

    A mapping that is empty is a value: an option that is gone later is a difference.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            inner = flat(value, between)
            found |= {f"{name}{between}{key}": each for key, each in inner.items()}
        else:
            found[name] = value
    return found
