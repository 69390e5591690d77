"""What no reader would see, and what a terminal would obey, is visible."""

import sys
import unicodedata

import pytest

from metronorm.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("100 %\rdone", r"100 %\rdone"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("a\u2066b\u2069", r"a\u2066b\u2069"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\ud800", r"\ud800"),
        ("two\u2028lines", r"two\u2028lines"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
        ("[INST] q [/INST]", "[INST] q [/INST]"),
        (r".*(q|v)\.[a-z_]+", r".*(q|v)\.[a-z_]+"),
        ("损失 🙂 ä\u3000ع", "损失 🙂 ä\u3000ع"),
        ("क्\u200dष", "क्\u200dष"),
        ("a\u00a0b", "a\u00a0b"),
    ],
)
def test_what_steers_a_terminal_is_shown_and_what_is_text_stays(text: str, shown: str) -> None:
    assert printable(text) == printable(text, multiline=True) == shown


def test_lines_and_tabs_stay_only_where_several_lines_are_wanted() -> None:
    assert printable("a\n\tb\r\n") == r"a\n\tb\r\n"
    assert printable("a\n\tb\r\n", multiline=True) == "a\n\tb\\r\n"


def test_no_control_character_of_unicode_comes_through() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {unicodedata.category(sign) for sign in printable(everything)}
    assert left.isdisjoint({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
    assert printable(printable(everything)) == printable(everything)
    printable(everything).encode()
