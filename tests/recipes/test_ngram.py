"""The n-gram model beside its equations, counted with dictionaries."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.errors import ConfigError, DataError

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from lib.ngram import NGram, discounts

TEXTS = ["abracadabra", "abra", "cadabra", "barbara", "a", "", "bacada", "abacab", "dadada"] * 2


def by_equations(texts: list[str], order: int, size: int, context: str, symbol: str) -> float:
    """The probability of a symbol; < is the start of a text, > its end."""
    grams = [Counter[str]() for _ in range(order + 1)]
    for text in texts:
        whole = f"<{text}>"
        for length in range(1, order + 1):
            for place in range(len(whole) - length + 1):
                grams[length][whole[place : place + length]] += 1
    grams[1]["<"] = 0
    for length in range(1, order):
        before = defaultdict(set)
        for gram in grams[length + 1]:
            before[gram[1:]].add(gram[0])
        for gram in grams[length]:
            if not gram.startswith("<"):
                grams[length][gram] = len(before[gram])

    def chance(length: int, context: str) -> float:
        """After the last `length` - 1 symbols of a context."""
        if length == 0:
            return 1 / (size + 1)
        near = context[len(context) - length + 1 :]
        counts = {
            gram[-1]: count for gram, count in grams[length].items() if gram[:-1] == near and count
        }
        if not counts:
            return chance(length - 1, context)
        taken = discounts(np.array([*grams[length].values()]))
        rest = sum(taken[min(count, 3)] for count in counts.values())
        mine = counts.get(symbol, 0)
        left = mine - taken[min(mine, 3)]
        return float((left + rest * chance(length - 1, context)) / sum(counts.values()))

    whole = f"<{context}"
    return chance(min(order, len(whole) + 1), whole)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("texts", [TEXTS, ["ab", "ba", "abab", "c"]])
def test_probabilities_are_those_of_the_equations(texts: list[str], order: int) -> None:
    model = NGram(texts, order=order, alphabet="abcdrx")
    assert "".join(model.symbols) == "abcdrx"
    for context in ("", "a", "ab", "abra", "dadab", "xx", "cx", "bacadabrab"):
        found = model.distribution(context)
        wanted = [by_equations(texts, order, 6, context, each) for each in "abcdrx>"]
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@given(
    st.lists(st.text("abc", max_size=8), min_size=1, max_size=12).filter(any),
    st.text("abc", max_size=12),
    st.integers(1, 6),
)
def test_bits_are_those_of_the_distributions_which_add_up_to_1(
    texts: list[str], text: str, order: int
) -> None:
    model = NGram(texts, order=order, alphabet="abc")
    bits = model.bits(text)
    assert len(bits) == len(text) + 1
    for place, symbol in enumerate([*text, None]):
        found = model.distribution(text[:place])
        assert found.sum() == pytest.approx(1, abs=1e-12)
        index = len(model.symbols) if symbol is None else model.symbols.index(symbol)
        assert bits[place] == pytest.approx(-np.log2(found[index]), abs=1e-9)
    both = model.bits_of([text, texts[0]])
    np.testing.assert_allclose(both, [*bits, *model.bits(texts[0])], rtol=1e-12)


def test_a_part_of_a_sequence_has_no_start() -> None:
    model = NGram(TEXTS, order=3)
    np.testing.assert_allclose(
        model.distribution("abra", start=False), model.distribution("xxbra"[2:], start=False)
    )
    assert not np.allclose(model.distribution("a"), model.distribution("a", start=False))
    assert model.distribution("", start=False)[model.symbols.index("a")] > 0.2


def test_the_discounts_of_the_paper() -> None:
    counts = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])  # n1/(n1 + 2 n2) = 1/2
    np.testing.assert_allclose(discounts(counts), [0, 1 - 2 / 4, 2 - 3 / 4, 3 - 4 / 4])


def test_symbols_may_be_anything_hashable() -> None:
    model = NGram([[(1, 2), None, "x"], [None]], order=2)
    assert model.bits([None, "x"]).sum() < model.bits(["x", (1, 2)]).sum()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        NGram(["a"], order=0)
    for texts in ([], [""]):
        with pytest.raises(DataError, match="sequences to count"):
            NGram(texts)
    with pytest.raises(DataError, match="know all symbols; got 'z'"):
        NGram(["a"]).bits("z")
