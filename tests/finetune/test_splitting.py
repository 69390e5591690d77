"""Rows to hold out: whole contents, in the chosen share, of every class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.finetune.splitting import content_key, held_out


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=80),
    st.floats(0, 0.5),
    st.integers(0, 5),
)
def test_copies_are_on_one_side_and_no_class_is_held_out_whole(
    rows: list[tuple[int, int]], share: float, seed: int
) -> None:
    keys = np.array([content_key(str(content)) for content, _ in rows], dtype=np.uint64)
    class_of = dict(rows)
    classes = np.array([class_of[content] for content, _ in rows])
    out = held_out(keys, share, seed, classes)
    assert not set(keys[out].tolist()) & set(keys[~out].tolist())
    assert set(classes[~out].tolist()) == set(classes.tolist())
    if share and len(set(keys.tolist())) > len(set(classes.tolist())):
        assert out.any()


def test_the_share_is_exact_and_the_order_of_the_rows_does_not_matter() -> None:
    keys = np.array([content_key(str(number)) for number in range(1000)], dtype=np.uint64)
    out = held_out(keys, 0.1, 0)
    assert out.sum() == 100
    assert (held_out(keys[::-1].copy(), 0.1, 0)[::-1] == out).all()
    assert (held_out(keys, 0.1, 1) != out).any()


@pytest.mark.parametrize(("contents", "share", "expected"), [(1, 0.5, 0), (2, 0.1, 1), (9, 0.0, 0)])
def test_one_is_held_out_at_least_where_there_are_two(
    contents: int, share: float, expected: int
) -> None:
    keys = np.arange(contents, dtype=np.uint64)
    assert held_out(keys, share, 0).sum() == expected


def test_line_ends_and_space_around_a_text_do_not_count() -> None:
    assert content_key("a\r\nb ") == content_key(" a\nb")
    assert content_key("a b") != content_key("a  b")
    assert content_key("a", "b") != content_key("ab")
    assert content_key("\ud800") != content_key("?")
