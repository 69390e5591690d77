"""Text that is safe to show, and numbers in words."""

import math
import sys
import unicodedata

import pytest

from metronorm.errors import ConfigError
from metronorm.text import (
    counted,
    flat,
    hours_minutes,
    nearest,
    parse_percent,
    parse_size,
    percent,
    printable,
    short_number,
    short_time,
    shortened,
    size,
    three_digits,
)


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
def test_control_characters_are_escaped_and_text_stays(text: str, shown: str) -> None:
    assert printable(text) == printable(text, multiline=True) == shown


def test_lines_and_tabs_stay_only_where_several_lines_are_wanted() -> None:
    assert printable("a\n\tb\r\n") == r"a\n\tb\r\n"
    assert printable("a\n\tb\r\n", multiline=True) == "a\n\tb\\r\n"


def test_no_control_character_of_unicode_is_printed() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {unicodedata.category(sign) for sign in printable(everything)}
    assert left.isdisjoint({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
    assert printable(printable(everything)) == printable(everything)
    printable(everything).encode()


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trian", "train"),
        ("FP16", "fp16"),
        ("bf-16", "bf16"),
        ("muon", "ticks_muon"),
        ("ticks", "ticks_muon"),
        ("t", None),
        ("", None),
        ("export", None),
    ],
)
def test_a_word_is_near_one_choice_or_none(word: str, meant: str | None) -> None:
    assert nearest(word, ("train", "fp16", "bf16", "ticks_muon")) == meant


def test_times() -> None:
    times = [0, 4_160, 31e6, -31e6, 2.5e9, 270e9, 7200e9]
    assert [short_time(ns) for ns in times] == [
        "0 µs", "4.16 µs", "31 ms", "-31 ms", "2.5 s", "4.5 min", "2 h"
    ]  # fmt: skip
    assert [hours_minutes(seconds) for seconds in (0, 59.6, 123, 3_723)] == [
        "0:00", "1:00", "2:03", "1:02:03"
    ]  # fmt: skip


def test_sizes_and_counts() -> None:
    assert [size(count) for count in (0, 1023, 1536, 512 * 2**20, 2_000 * 2**30)] == [
        "0 bytes", "1,023 bytes", "1.5 KiB", "512 MiB", "2,000 GiB"
    ]  # fmt: skip
    assert [counted(number, "tick") for number in (0, 1, 12_000)] == [
        "0 ticks", "1 tick", "12,000 ticks"
    ]  # fmt: skip


def test_numbers() -> None:
    assert [three_digits(value) for value in (0.04164, 31, 12_000)] == ["0.0416", "31", "12,000"]
    assert [short_number(value) for value in (2.30259, 3e-6, 0, math.nan)] == [
        "2.3026", "3e-06", "0.0000", "nan"
    ]  # fmt: skip
    assert shortened("beginning and end", 9) == "begi… end"
    assert shortened("short", 9) == "short"


def test_percents() -> None:
    assert parse_percent("5%") == parse_percent(" 5 % ") == parse_percent("0.05") == 0.05
    assert parse_percent("0") == parse_percent("0%") == 0
    assert parse_percent("150%") == 1.5
    for text in ("", "%", "five", "5%%", "nan", "nan%", "inf%", "-1%", "1e999%"):
        with pytest.raises(ConfigError, match="must be a percentage of at least 0; got"):
            parse_percent(text)
    with pytest.raises(ConfigError, match=r"needs a percent sign; got '5'; try: 5%"):
        parse_percent("5")
    assert [percent(share) for share in (0.0321, 0.0, -1e-12, 0.0004, 12.5, -0.0321)] == [
        "3.21%", "0%", "0%", "0.04%", "1,250%", "-3.21%"
    ]  # fmt: skip


def test_sizes() -> None:
    assert parse_size("3GiB") == parse_size(" 3 gib ") == parse_size("3G") == 3 << 30
    assert parse_size("3000MiB") == 3000 << 20
    assert parse_size("2.5GB") == 2_500_000_000
    assert parse_size("64") == parse_size("64B") == 64
    for text in ("", "GiB", "much", "-1GiB", "0GiB", "3iB", "1e9", "3 GiBs", "9999999999TiB"):
        with pytest.raises(ConfigError, match=r"must be a number with its unit; got .*; try: 3GiB"):
            parse_size(text)


def test_flat_names_keep_what_is_empty() -> None:
    nested = {"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 2}], "g": {}}
    assert flat(nested) == {"a.b.c": 1, "a.d": {}, "e": [{"f": 2}], "g": {}}
    assert flat({"a": {"b": 1}}, "/") == {"a/b": 1}
