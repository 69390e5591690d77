"""Poems: what is left out, who is held out, and what tone a character has."""

from collections import Counter
from pathlib import Path

import pytest

from metronorm.data.poems import Poems, clean, han, poems, tones
from metronorm.errors import ConfigError, DataError, MissingDependencyError

from ..real_data import needs_poems
from .poem_files import poem, write

A, B, C, D = "春眠不覺曉，處處聞啼鳥。", "夜來風雨聲，花落知多少。", "一，二。", "三四，五六？"


def texts(found: Poems) -> list[str]:
    return sorted(each.text for part in found[:3] for each in part)


def test_a_couplet_that_an_earlier_poem_has_is_left_out(tmp_path: Path) -> None:
    twice = poem(1, A, A.replace("。", "！"), C)  # a refrain stays
    folder = write(tmp_path, [twice, poem(2, A, B), poem(3, C), poem(4, A, D, B)], [])
    found = poems("tang", folder)
    assert texts(found) == sorted([A + A.replace("。", "！") + C, B, D])
    assert (found.copies, found.damaged) == (4, 0)


def test_notes_are_cut_out_and_damaged_couplets_left_out(tmp_path: Path) -> None:
    paragraphs = (
        "（序云：好",
        "詩。）[春]眠（一作夢）不覺曉，處處聞啼鳥。",
        "冰□已鏤津。",
        "",
        "撼{枦睘}。",
        B,
    )
    found = poems("tang", write(tmp_path, [poem(1, *paragraphs)], []))
    assert texts(found) == [A + B]
    assert (found.copies, found.damaged) == (0, 2)
    assert clean("[a][b]（c（d）") == "ab（c"
    assert han("「春𠀀」，a1") == "春𠀀"


def test_the_parts_are_those_of_the_ids_and_about_one_in_forty(tmp_path: Path) -> None:
    entries = [poem(number, f"{chr(0x4E00 + number)}一。") for number in range(4000)]
    first = poems("tang", write(tmp_path / "a", entries, []))
    other = poems("tang", write(tmp_path / "b", entries[::-1], []))
    assert [sorted(part) for part in first[:3]] == [sorted(part) for part in other[:3]]
    sizes = [len(part) for part in first[:3]]
    assert sum(sizes) == 4000
    assert all(70 < size < 130 for size in sizes[1:])


def test_a_character_has_a_tone_if_it_nearly_always_has_it(tmp_path: Path) -> None:
    entries = [poem(1, *["春覺重，好。"] * 20, "春覺好，不。")]
    marks = {"id": "1", "strains": [*["平仄○，仄。"] * 20, "平平○，？。"]}
    found = tones(write(tmp_path, entries, [marks, {"id": "none", "strains": ["平"]}]))
    assert found == {"春": "平", "覺": "仄", "好": "仄"}
    shorter = {"id": "1", "strains": ["平"] * 20}  # fits no line
    assert tones(write(tmp_path / "x", entries, [shorter])) == {}


@needs_poems
@pytest.mark.slow
def test_the_poems_of_the_tang() -> None:
    found = poems("tang")
    assert [len(part) for part in found[:3]] == [53570, 1475, 1364]
    assert (found.copies, found.damaged) == (8667, 4887)
    held_out = {han(one) for part in found[1:3] for each in part for one in each.couplets}
    assert not held_out & {han(one) for each in found.train for one in each.couplets}
    assert all(each.couplets and each.title and each.author for each in found.test)
    classes = tones()
    assert Counter(classes.values()).keys() == {"平", "仄"}
    assert [classes[one] for one in "春風山月日"] == ["平", "平", "平", "仄", "仄"]


def test_bad_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'tang' or 'song'; got 'ming'"):
        poems("ming")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"must be there, and be JSON; got .*poet\.tang.0.json"):
        poems("tang", tmp_path)
    folder = write(tmp_path, [{"id": "1", "paragraphs": ["a"]}], [])
    with pytest.raises(DataError, match=r"must have id, title, author, paragraphs; got \{'id'"):
        poems("tang", folder)
    (folder / "dist/quantangshi/poet.tang.0.json").write_text("[1")
    with pytest.raises(DataError, match="be JSON"):
        poems("tang", folder)
    (folder / "dist/quantangshi/poet.tang.0.json").write_text('{"id": 3}')
    with pytest.raises(DataError, match="must have id"):
        poems("tang", folder)
    monkeypatch.setattr("metronorm.data.packages.PACKAGES", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"chinese-poetry.*make data"):
        poems("tang")
