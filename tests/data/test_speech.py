"""Speech inside packages: what is found, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest

from metronorm.data.packages import debian_folder
from metronorm.data.speech import czech_lines, letters, mandarin_syllables
from metronorm.errors import DataError

from ..real_data import needs_fillets, needs_gcin_voice


@needs_gcin_voice
def test_the_syllables_are_those_of_the_docstring() -> None:
    found = mandarin_syllables()
    assert len(found) == 2358
    assert Counter(each.speaker for each in found) == {"3": 1200, "5": 1158}
    tones = Counter(each.tone for each in found if each.speaker == "3")
    assert tones == {0: 322, 1: 243, 2: 294, 3: 328, 4: 13}
    assert len({(each.speaker, each.name, each.tone) for each in found}) == len(found)


@needs_fillets
def test_the_lines_are_those_of_the_docstring() -> None:
    found = czech_lines()
    assert len(found) == 1702
    assert len({each.level for each in found}) == 78
    first = next(each for each in found if each.path.stem == "vit-hs-vitejteA")
    assert (first.level, first.voice) == ("city", "font_statue")
    assert first.text == "Vítejte v nejkrásnějším městě pod sluncem."
    assert first.english == "Welcome to the most beautiful city under the sun."


def test_tones_are_those_of_the_last_digit(tmp_path: Path) -> None:
    for name in ("ㄇㄚ", "ㄇㄚ2", "ㄇㄚ3", "ㄇㄚ4", "ㄇㄚ1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "5.ogg").touch()
    assert {each.path.parent.name: each.tone for each in mandarin_syllables(tmp_path)} == {
        "ㄇㄚ": 0, "ㄇㄚ2": 1, "ㄇㄚ3": 2, "ㄇㄚ4": 3, "ㄇㄚ1": 4,
    }  # fmt: skip
    assert {each.name for each in mandarin_syllables(tmp_path)} == {"ㄇㄚ"}


def test_syllables_of_nobody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SYLLABLE/SPEAKER\.ogg"):
        mandarin_syllables(tmp_path)
    (tmp_path / "ㄇㄚ").mkdir()
    (tmp_path / "ㄇㄚ" / "7.ogg").touch()
    with pytest.raises(DataError, match=r"speakers 3 and 5; got .*7\.ogg"):
        mandarin_syllables(tmp_path)


def write_level(root: Path, script: bytes, *sounds: str) -> None:
    (root / "script" / "reef").mkdir(parents=True)
    (root / "script" / "reef" / "dialogs_cs.lua").write_bytes(script)
    (root / "sound" / "reef" / "cs").mkdir(parents=True)
    for name in sounds:
        (root / "sound" / "reef" / "cs" / f"{name}.ogg").touch()


def test_lines_need_a_text_and_a_sound(tmp_path: Path) -> None:
    script = """
dialogId("a", "font_big", "He said \\"no\\".")
dialogStr("Řekl \\"ne\\".")
dialogId("silent", "font_big", "Hm.")
dialogStr("")
dialogId("mute", "font_big", "Yes.")
dialogStr("Ano.")
"""
    write_level(tmp_path, script.encode(), "a", "silent", "other")
    (line,) = czech_lines(tmp_path)
    assert line.text == 'Řekl "ne".'
    assert line.english == 'He said "no".'
    assert line.path == tmp_path / "sound/reef/cs/a.ogg"


def test_scripts_without_lines_and_in_another_encoding_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none in"):
        czech_lines(tmp_path)
    write_level(tmp_path, "dialogStr('Ž')".encode("latin2"))
    with pytest.raises(DataError, match=r"UTF-8; got .*dialogs_cs\.lua"):
        czech_lines(tmp_path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Vítejte! Pod  sluncem...", "vítejte pod sluncem"),
        ("není-liž", "není liž"),
        ("O'Brien\u2019s", "obriens"),
        ("za %1 vteřin", None),
        ("да", None),
        ("...", None),
    ],
)
def test_letters_are_what_is_spoken(text: str, wanted: str | None) -> None:
    assert letters(text) == wanted


@needs_fillets
def test_most_lines_are_spelled() -> None:
    lines = czech_lines(debian_folder("fillets-ng-data", "usr/share/games/fillets-ng"))
    assert sum(letters(line.text) is not None for line in lines) == 1671
