"""The language of the search: what it finds, and where a mistake is."""

import math
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.board.query import AllOf, QueryError, matches, metrics_of, parse

RUN: dict[str, list[Any]] = {
    "": ["Try 1", "sweeps/try", "a note of mine", "good", "old"],
    "name": ["Try 1"],
    "folder": ["sweeps/try"],
    "state": ["killed"],
    "tag": ["good", "old"],
    "note": ["a note of mine"],
    "tick": [1000],
    "total": [2000],
    "age": [3600.0],
    "starred": [True],
    "hidden": [False],
    "damaged": [False],
    "stalled": [False],
    "loss": [1.25],
    "min.loss": [-2.0],
    "grad norm/layer 1": [math.nan],
    "config.lr": [0.001],
    "config.optimizer.name": ["ticks"],
    "config.flag": [True],
    "config.none": [None],
    "config.layers": [[64, 32]],
    "config.large": [10**400],
    "has:nan": ["nan"],
    "has:loss": [1.25],
    "has:note": ["a note of mine"],
    "has:config.lr": [0.001],
}


def found(query: str) -> bool:
    return matches(parse(query), lambda name: RUN.get(name, []))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "try",
        "TRY",
        '"try 1"',
        "mine good",
        "try or nothing",
        "nothing or try",
        "-nothing",
        "not nothing and try",
        "not not try",
        "--try",
        "state:kill",
        "state=killed",
        "state=KILLED",
        "state!=running",
        "loss<1.5 state:killed has:nan config.optimizer.name=ticks",
        "loss=1.25",
        "loss = 1.25",
        "loss>=1.25 loss<=1.25",
        "loss>1.2499 loss<+2 loss<1e1",
        "min.loss<-1",
        "min.loss=-2",
        "tag=old",
        "tag:goo",
        "tag:g*d",
        "name:try*",
        "name=*1",
        "name!=other*",
        "starred",
        "-hidden",
        "tick>=1000 total=2000 age>60",
        "config.lr=1e-3",
        "config.flag=true",
        "config.layers:32",
        "config.large>1",
        "has:loss",
        "-has:accuracy",
        '"grad norm/layer 1"=nan',
        "(a or b) or (try and (good))",
        "try nothing or good",
    ],
)
def test_finds_the_run(query: str) -> None:
    assert found(query)


@pytest.mark.parametrize(
    "query",
    [
        "nothing",
        "try nothing",
        "-try",
        "try (nothing or other)",
        "nothing or try -old",
        "loss<1.25",
        "loss!=1.25",
        "accuracy<1",
        "accuracy!=1",  # a run that has none is not found
        "-accuracy<1 nothing",
        "state:run",
        "name=try",
        "name:try?1",
        "name:[t]ry*",
        "has:inf",
        "config.lr<0.0001",
        "config.none=none",
        "config.other=1",
        "hidden",
        '"grad norm/layer 1"<5',
        "__class__=1",
        "config.__class__.__mro__:object",
    ],
)
def test_does_not_find_the_run(query: str) -> None:
    assert not found(query)


@pytest.mark.parametrize(
    ("query", "at", "must"),
    [
        ("loss<", 5, "a value must follow <"),
        ("loss<x", 5, "a number must follow <"),
        ("loss<1 (a", 9, "a bracket must be closed"),
        ("a)", 1, "a bracket must be opened before it is closed"),
        ("()", 1, "a name or a text must be here"),
        ("a or", 4, "a condition must follow"),
        ("<5", 0, "a name or a text must be here"),
        ('a "b', 2, "a quote must be closed"),
        ("a!b", 1, "an operator must be < <= > >= = != :"),
        ("(" * 60, 51, "brackets must be at most 50 deep"),
        ("-" * 60 + "a", 51, "conditions must be at most 50 deep"),
        ("a" * 4001, 4000, "a search must be short"),
    ],
)
def test_a_mistake_is_shown_where_it_is(query: str, at: int, must: str) -> None:
    with pytest.raises(QueryError) as raised:
        parse(query)
    assert (raised.value.at, raised.value.must) == (at, must)


def test_the_metrics_that_a_query_reads() -> None:
    query = (
        "loss<1 (min.acc>0 or -best.f1:0) has:lr has:nan has:config.x tag:a config.b=1 c state:d"
    )
    assert metrics_of(parse(query)) == {"loss", "acc", "f1", "lr"}


@given(st.text(st.sampled_from([*string.printable, "é", "\u202e"]), max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    place = 0
    try:
        query = parse(text)
        assert (query == AllOf(())) == (not text.strip())
        matches(query, lambda name: RUN.get(name, []))
    except QueryError as error:
        place = error.at
    assert 0 <= place <= len(text)


def test_many_stars_take_no_time() -> None:
    pattern = "*a" * 1000 + "*b"
    assert not matches(parse(f"name:{pattern}"), lambda _: ["a" * 5000])
