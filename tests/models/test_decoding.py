"""Where texts end, their seeds, and how many threads write them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metronorm.errors import ConfigError
from metronorm.models import GPT, GPTConfig
from metronorm.models.decoding import StopText, decoding_threads, seeds_of

PIECES = st.lists(st.text("ab\n", max_size=3), max_size=12)


@given(PIECES, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_wherever_it_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    ending = StopText(stops)
    got = ""
    for piece in pieces:
        got += ending.add(piece)
        if ending.is_over:
            break
    got += ending.rest()
    whole = "".join(pieces)
    # a stop counts as soon as it is there: of several, the one that ends first; then the earliest
    ends = [at + len(stop) for stop in stops if (at := whole.find(stop)) >= 0]
    seen = 0
    for piece in pieces:
        seen += len(piece)
        if ends and seen >= min(ends):
            break
    known = whole[:seen]
    places = [at for stop in stops if (at := known.find(stop)) >= 0]
    assert got == (known[: min(places)] if places else whole)
    assert ending.is_over == bool(places)


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    ending = StopText(["\nEND"])
    assert [ending.add(piece) for piece in ("one\n", "E", "x", "\nEN")] == ["one", "", "\nEx", ""]
    assert ending.rest() == "\nEN"


def test_a_stop_must_have_a_text() -> None:
    with pytest.raises(ConfigError, match="must not be empty"):
        StopText(["a", ""])


def test_seeds_follow_each_other() -> None:
    assert seeds_of(7, 3) == [7, 8, 9]
    assert seeds_of(None, 2) == [None, None]


def test_a_small_model_is_written_with_by_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for width, threads in ((16, 1), (512, 2)):
            config = GPTConfig(vocab_size=8, context=4, layers=2, heads=2, width=width)
            with decoding_threads(GPT(config)):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
