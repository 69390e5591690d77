from pathlib import Path

import numpy as np
import pytest

from metronorm.data.interactions import movielens_100k, read_interactions
from metronorm.errors import DataError, MissingDependencyError

from ..real_data import needs_movielens

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
b\t7\t3\t20
a\t9\t5\t30
a\t7\t1\t10
b\t9\t4\t20
a\t8\t2\t30
b\t8\t4\t5
"""
ITEM = "item_id:token\tmovie_title:token_seq\n9\tNine\n8\tEight\n7\tSeven\n"
USER = "user_id:token\tage:token\na\t20\nb\t30\n"


def write(
    folder: Path, *, inter: str = INTER, item: str = ITEM, user: str = USER, name: str = "x"
) -> Path:
    for end, text in (("inter", inter), ("item", item), ("user", user)):
        (folder / f"{name}.{end}").write_text(text)
    return folder


def test_the_order_is_that_of_time_and_then_of_lines(tmp_path: Path) -> None:
    read = read_interactions(write(tmp_path), "x")
    assert read.titles == ("Nine", "Eight", "Seven")
    assert read.users == ("a", "b")
    assert [list(each) for each in read.histories()] == [[2, 0, 1], [1, 2, 0]]
    assert read.times.tolist() == [10, 30, 30, 5, 20, 20]
    assert read.ratings.tolist() == [1, 5, 2, 4, 3, 4]
    assert read.tied == 4
    assert [list(each) for each in read.histories(without=2)] == [[2], [1]]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"inter": INTER.replace("b\t9", "c\t9")}, r"known user, .* got user 'c' in line 5"),
        ({"inter": INTER.replace("a\t9", "a\t6")}, r"known item, .* got item '6' in line 3"),
        ({"inter": INTER.replace("a\t9", "a\t7")}, r"rate an item once; .* line 4 of"),
        ({"inter": INTER.replace("b\t8\t4\t5\n", "")}, r"3 ratings.*; got 2 .*line 3"),
        ({"inter": INTER.replace("\t3\t", "\tx\t")}, r"rating must be numbers; got .*'x'"),
        ({"inter": INTER.replace("\t30", "\tnan")}, r"timestamp must be finite; got 'nan'"),
        ({"inter": INTER.replace("b\t9\t4", "b\t9")}, r"the 4 columns .*; got 3 in line 5"),
        ({"inter": INTER.replace("rating", "stars")}, r"a column 'rating'; got .*stars"),
        ({"inter": ""}, r"must have lines below its first; got none"),
        ({"item": ITEM.replace("8\tE", "9\tE")}, r"every item must be listed once"),
        ({"user": "age:token\n2\n"}, r"a column 'user_id'; got age in .*x.user"),
    ],
)
def test_files_that_cannot_be_are_one_clear_error(
    tmp_path: Path, changed: dict[str, str], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        read_interactions(write(tmp_path, **changed), "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a table must exist; got no .*ml-100k.user"):
        movielens_100k(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "x.user").write_bytes(b"user_id\n\xff\n")
    with pytest.raises(DataError, match=r"must be a file of UTF-8; got .*x.user"):
        read_interactions(tmp_path, "x")


def test_another_set_is_not_movielens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"100,000 ratings.*; got 6 from 1 to 5, 3 items, 2 users"):
        movielens_100k(write(tmp_path, name="ml-100k"))


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metronorm.data.interactions.PACKAGE", "no-such-package")
    with pytest.raises(MissingDependencyError, match=r"no-such-package.*make data"):
        movielens_100k()


@needs_movielens
def test_the_numbers_in_the_docstrings_are_those_of_the_package() -> None:
    read = movielens_100k()
    times = read.times.astype("datetime64[s]").astype("datetime64[M]")
    assert (times.min(), times.max()) == (np.datetime64("1997-09"), np.datetime64("1998-04"))
    histories = read.histories()
    assert sum(map(len, histories)) == 100_000
    assert min(map(len, histories)) == 20
    assert 3 * read.tied > 200_000, "most ratings share their second with another one"
    spans = zip(read.starts[:-1], read.starts[1:], strict=True)
    assert all((np.diff(read.times[start:end]) >= 0).all() for start, end in spans)
    assert read.titles[histories[0][0]]
