"""What the recipes of speech share: decoding, rates, batches, beside independent ways."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

from lib import ctc, error_rates  # noqa: E402
from lib.hearing import groups, masked, padded, standardized, stretched, warped  # noqa: E402

WORDS = st.text(alphabet="aáb ", max_size=12)


# --- decoding -----------------------------------------------------------------------------------


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != ctc.BLANK)


def every_text(scores: np.ndarray) -> dict[tuple[int, ...], float]:
    """The probability of each text: the sum over all paths that give it."""
    found: dict[tuple[int, ...], float] = {}
    time, symbols = scores.shape
    for path in itertools.product(range(symbols), repeat=time):
        probability = math.exp(sum(scores[t, symbol] for t, symbol in enumerate(path)))
        text = collapse(path)
        found[text] = found.get(text, 0.0) + probability
    return found


def random_scores(seed: int, time: int, symbols: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (time, symbols))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_wide_beam_finds_the_best_of_all_paths(seed: int, time: int) -> None:
    scores = random_scores(seed, time, 3)
    texts = every_text(scores)
    found, logarithm = ctc.prefix_beam(scores, width=10_000, least=-math.inf)
    assert texts[tuple(found)] == pytest.approx(max(texts.values()))
    assert math.exp(logarithm) == pytest.approx(texts[tuple(found)])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 2), st.floats(-1, 1))
def test_a_language_model_is_weighed_in(seed: int, weight: float, bonus: float) -> None:
    scores = random_scores(seed, 4, 3)
    table = np.log(np.random.default_rng(seed + 1).dirichlet(np.ones(2), size=3))

    def score(prefix: tuple[int, ...], symbol: int) -> float:
        return float(table[prefix[-1] if prefix else 0, symbol - 1])

    def total(text: tuple[int, ...], probability: float) -> float:
        language = sum(score(text[:place], symbol) for place, symbol in enumerate(text))
        return math.log(probability) + weight * language + bonus * len(text)

    totals = {text: total(text, each) for text, each in every_text(scores).items()}
    found, value = ctc.prefix_beam(
        scores, width=10_000, score=score, weight=weight, bonus=bonus, least=-math.inf
    )
    assert value == pytest.approx(max(totals.values()))
    assert totals[tuple(found)] == pytest.approx(value)


def test_a_narrow_beam_is_never_better_than_the_widest() -> None:
    for seed in range(20):
        scores = random_scores(seed, 6, 4)
        best = ctc.prefix_beam(scores, width=10_000, least=-math.inf)[1]
        assert ctc.prefix_beam(scores, width=3)[1] <= best + 1e-9


@given(st.integers(0, 10_000))
def test_greedy_collapses_the_likeliest_path(seed: int) -> None:
    scores = random_scores(seed, 9, 3)
    path = tuple(scores.argmax(1).tolist())
    assert tuple(ctc.greedy(scores)) == collapse(path)
    for spike in ctc.spikes(scores):
        assert set(path[spike.first : spike.end]) == {spike.symbol}
        assert spike.first == 0 or path[spike.first - 1] != spike.symbol
        assert spike.end == len(path) or path[spike.end] != spike.symbol


def test_no_frames_are_no_symbols() -> None:
    assert ctc.greedy(np.zeros((0, 3))) == []
    assert ctc.prefix_beam(np.zeros((0, 3))) == ([], 0.0)


# --- rates --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(WORDS.filter(str.strip), WORDS), min_size=1, max_size=4))
def test_rates_are_those_of_jiwer(lines: list[tuple[str, str]]) -> None:
    jiwer = pytest.importorskip("jiwer")
    lines = [(" ".join(a.split()), " ".join(b.split())) for a, b in lines]
    sums = {name: [0, 0] for name in ("cer", "plain_cer", "wer")}
    for wanted, got in lines:
        for name, pair in error_rates.counts(wanted, got).items():
            sums[name] = [sums[name][0] + pair[0], sums[name][1] + pair[1]]
    wanted, got = map(list, zip(*lines, strict=True))
    assert sums["cer"][0] / sums["cer"][1] == pytest.approx(jiwer.cer(wanted, got))
    assert sums["wer"][0] / sums["wer"][1] == pytest.approx(jiwer.wer(wanted, got))
    bare = [[each.replace("á", "a") for each in side] for side in (wanted, got)]
    assert sums["plain_cer"][0] / sums["plain_cer"][1] == pytest.approx(jiwer.cer(*bare))


def test_diacritics_of_czech() -> None:
    assert error_rates.without_diacritics("příliš žluťoučký kůň úpěl") == (
        "prilis zlutoucky kun upel"
    )


def test_an_interval_is_around_the_rate() -> None:
    pairs = [(edits, 10) for edits in range(10)] * 20
    value, low, high = error_rates.rate(pairs)
    assert value == pytest.approx(0.45)
    spread = np.std([edits / 10 for edits, _ in pairs]) / len(pairs) ** 0.5
    assert low == pytest.approx(value - 1.96 * spread, abs=0.01)
    assert high == pytest.approx(value + 1.96 * spread, abs=0.01)


# --- batches ------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(100, 2000))
def test_groups_have_every_example_once_and_fit(lengths: list[int], most: int) -> None:
    found = groups(lengths, most, seed=1, epoch=2)
    assert sorted(place for group in found for place in group.examples) == [*range(len(lengths))]
    for group in found:
        frames = max(lengths[place] for place in group.examples) * len(group.examples)
        assert frames <= most or len(group.examples) == 1
    assert found == groups(lengths, most, seed=1, epoch=2)
    assert len({group.seed for group in found}) == len(found)


def test_epochs_differ() -> None:
    lengths = [*range(1, 200)]
    one, other = (groups(lengths, 500, seed=0, epoch=epoch) for epoch in range(2))
    assert [group.examples for group in one] != [group.examples for group in other]


def test_padding_and_scale() -> None:
    chance = np.random.default_rng(0)
    rows = [chance.normal(3, 2, (length, 4)).astype(np.float32) for length in (5, 9)]
    whole, lengths = padded(rows)
    assert (whole.shape, lengths.tolist()) == ((2, 9, 4), [5, 9])
    assert (whole[0, :5] == rows[0]).all()
    assert not whole[0, 5:].any()
    scaled = standardized(rows[1])
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-5)
    assert np.isfinite(standardized(np.ones((1, 3), np.float32))).all()


def test_stretching_and_warping_move_what_is_linear_exactly() -> None:
    line = np.arange(10, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    got = stretched(line, 19)
    np.testing.assert_allclose(got[:, 0], np.arange(19) / 2, atol=1e-6)
    assert (stretched(line, 10) == line).all()
    got = warped(np.ascontiguousarray(line.T), 0.5)
    np.testing.assert_allclose(got[0], np.arange(10) / 2, atol=1e-6)


def test_masks_are_stripes_of_zeros_and_leave_the_rest() -> None:
    features = np.ones((300, 80), np.float32)
    found = masked(features, np.random.default_rng(0))
    assert features.all()
    rows, columns = (found == 0).all(1), (found == 0).all(0)
    assert (found == (~rows[:, None] & ~columns)).all()
    assert 0 < columns.sum() <= 40
    assert 0 < rows.sum() <= 5 * 25
    assert masked(np.ones((3, 8), np.float32), np.random.default_rng(0)).shape == (3, 8)
