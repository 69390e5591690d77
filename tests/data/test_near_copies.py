import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.data.config import TextConfig
from metronorm.data.near_copies import NEAR_COPIES, bands_for, jaccard, word_runs
from metronorm.data.text import prepare
from metronorm.errors import ConfigError, MissingDependencyError

rng = np.random.default_rng(0)


def text_of(words: int) -> list[str]:
    return [f"w{number}" for number in rng.integers(0, 2000, words)]


def changed(words: list[str], times: int) -> list[str]:
    """The same, with some words replaced: each is in five runs."""
    words = list(words)
    for place in rng.choice(len(words) // 10, times, replace=False) * 10 + 5:
        words[place] = "other"
    return words


def test_near_copies_are_left_out_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("rensa")
    texts = [text_of(300) for _ in range(40)]
    near = [changed(text, 2) for text in texts[:12]]  # at most 10 runs of 296 differ
    far = [changed(text, 25) for text in texts[12:24]]
    same = [word.upper() for word in texts[0]]
    held = changed(texts[30], 1)
    for number, words in enumerate([*texts, *near, *far, same]):
        (tmp_path / f"{number:02}.txt").write_text(",\n".join(words))
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "a.txt").write_text(" ".join(held))
    config = TextConfig(
        data=(f"{tmp_path}/*.txt",),
        validation_data=(str(tmp_path / "held"),),
        near_duplicates=0.8,
        cache=tmp_path / "cache",
    )
    meta = prepare(config).meta
    ledger = meta.ledger
    assert ledger is not None
    # those near an earlier one, and one that is near what is held out
    assert ledger.left_out[NEAR_COPIES].documents == 12 + 1 + 1
    assert (meta.train.documents, meta.validation.documents) == (39 + 12, 1)
    assert ledger.adds_up(meta.train, meta.validation)
    for first, second in zip(texts, [*near, *far], strict=False):
        share = jaccard(word_runs(" ".join(first)), word_runs(" ".join(second)))
        assert (share >= 0.8) == (second in near)


def test_a_run_is_of_five_words() -> None:
    assert word_runs("One, two\nthree: four FIVE six") == {
        "one two three four five",
        "two three four five six",
    }
    assert word_runs("one two") == {"one two"}
    assert word_runs("?!") == {"?!"}


@given(st.floats(0.05, 1))
def test_a_pair_at_the_threshold_is_hardly_missed(threshold: float) -> None:
    bands = bands_for(threshold)
    missed = (1 - threshold ** (128 // bands)) ** bands
    assert missed <= 1e-3 or bands == 128
    if bands > 1:
        fewer = bands // 2
        assert (1 - threshold ** (128 // fewer)) ** fewer > 1e-3


def test_the_share_is_checked_and_the_package_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="near_duplicates must be a share"):
        TextConfig(near_duplicates=8)
    monkeypatch.setitem(sys.modules, "rensa", None)
    (tmp_path / "a.txt").write_text("a word " * 100)
    with pytest.raises(MissingDependencyError, match=r"metronorm\[text\]"):
        prepare(TextConfig(data=(str(tmp_path / "a.txt"),), near_duplicates=0.8, cache=tmp_path))
