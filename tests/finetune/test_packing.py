"""Packs of texts to write, and padded rows of texts to classify."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from metronorm.errors import ConfigError, DataError
from metronorm.finetune.architectures import features, head
from metronorm.finetune.examples import Example, Labelled
from metronorm.finetune.packing import Packs, Rows, best_fit
from metronorm.loss import linear_cross_entropy
from metronorm.train.task import Order
from tests.finetune.test_packed_attention import furthest, gradients
from tests.finetune.tiny import build, twin


def example(ids: list[int], weights: list[float], line: int = 1) -> Example:
    return Example(
        np.array(ids, dtype=np.int32), np.array(weights, dtype=np.float32), "a.jsonl", line
    )


def examples(count: int, seed: int = 0, most: int = 60) -> list[Example]:
    """Examples of different lengths, in which the second half counts; ids name the example."""
    sizes = np.random.default_rng(seed).integers(4, most + 1, count).tolist()
    return [
        example([number] * size, [0.0] * (size // 2) + [1.0] * (size - size // 2), number)
        for number, size in enumerate(sizes)
    ]


def labelled(count: int, seed: int = 0) -> list[Labelled]:
    sizes = np.random.default_rng(seed).integers(1, 40, count).tolist()
    return [
        Labelled(np.full(size, number, dtype=np.int32), number % 3, "a", number)
        for number, size in enumerate(sizes)
    ]


def test_a_pack_is_its_texts_one_after_the_other() -> None:
    one, two = example([7, 4, 9, 1], [0, 0, 1, 1]), example([3, 8, 1, 5], [0, 0, 0.5, 0])
    batch = Packs([one, two], 5, seed=0).collate(np.array([0, 1]))
    assert {name: values.tolist() for name, values in batch.items()} == {
        "ids": [7, 4, 9, 3, 8],
        "positions": [0, 1, 2, 0, 1],
        "targets": [4, 9, 1, 8, 1],
        "weights": [0, 1, 1, 0, 0.5],
        "lengths": [3, 2],  # after the last token that counts nothing is computed
    }
    assert {name: str(values.dtype) for name, values in batch.items()} == {
        name: "float32" if name == "weights" else "int64" for name in batch
    }


def test_every_example_comes_once_in_an_epoch_and_in_another_order_in_the_next() -> None:
    packs = Packs(examples(200), 64, seed=1)
    assert isinstance(packs, Order)
    size = packs.examples_per_epoch
    first, second = packs.chosen(0, size).tolist(), packs.chosen(size, size).tolist()
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second
    for number in range(size):
        assert packs.take(number, 1)["lengths"].sum() <= 64


def test_any_part_of_the_order_can_be_taken_by_itself() -> None:
    packs, again = Packs(examples(50), 64, seed=1), Packs(examples(50), 64, seed=1)
    whole = packs.chosen(3, 20).tolist()
    assert whole == [*again.chosen(3, 7).tolist(), *again.chosen(10, 13).tolist()]
    assert packs.data_id == again.data_id
    assert packs.data_id != Packs(examples(50), 65, seed=1).data_id
    assert packs.data_id != Packs(examples(50, seed=1), 64, seed=1).data_id


def test_the_seed_chooses_the_packs() -> None:
    firsts = {tuple(sorted(Packs(examples(50), 64, seed).chosen(0, 1))) for seed in range(8)}
    assert len(firsts) > 1


def test_little_of_the_packs_is_empty() -> None:
    """Lengths as of chats, the mean a sixth of a pack."""
    sizes = np.random.default_rng(0).lognormal(4.1, 0.8, 2000).clip(4, 512).astype(int).tolist()
    packs = Packs([example([0] * size, [1.0] * size) for size in sizes], 512, seed=0)
    assert 0 <= packs.empty < 0.01


def test_an_epoch_of_packs_has_the_loss_and_gradients_of_its_examples_one_by_one() -> None:
    chance = np.random.default_rng(0)
    texts = [
        example(chance.integers(3, 60, size).tolist(), [0, 0, 1, *chance.choice([0, 0.5, 1], size)])
        for size in chance.integers(4, 30, 12)
    ]
    texts = [each._replace(weights=each.weights[: len(each.ids)]) for each in texts]
    model = build("llama", exact=True)
    alone = twin(model)
    packs = Packs(texts, 32, seed=0)
    for number in range(packs.examples_per_epoch):
        batch = {name: torch.as_tensor(value) for name, value in packs.take(number, 1).items()}
        weight = head(model).weight
        linear_cross_entropy(
            features(model, batch), weight, batch["targets"], weights=batch["weights"]
        ).backward()
    for text in texts:
        ids = torch.as_tensor(text.ids.astype(np.int64))
        losses = F.cross_entropy(alone(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        (losses * torch.as_tensor(text.weights[1:])).sum().backward()
    assert furthest(gradients(model), gradients(alone)) < 1e-12


def test_all_examples_come_in_their_own_order_once_to_evaluate_on() -> None:
    packs = Packs(examples(50), 64, seed=1)
    for _ in range(2):
        batches = list(packs.once(2))
        numbers = np.concatenate([batch["ids"] for batch in batches])
        assert list(dict.fromkeys(numbers.tolist())) == list(range(50))
    assert len(packs.once(2)) == len(batches)
    assert max(len(batch["ids"]) for batch in batches) <= 128


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 50))
def test_bins_hold_every_item_once_and_no_two_would_fit_into_one(
    lengths: list[int], capacity: int
) -> None:
    sizes = np.array(lengths)
    bins = best_fit(sizes, capacity, np.arange(len(lengths)))
    assert Counter(np.concatenate(bins).tolist()) == Counter(range(len(lengths)))
    full = sorted(int(sizes[items].sum()) for items in bins)
    assert full[-1] <= capacity
    assert len(full) < 2 or full[0] + full[1] > capacity


@pytest.mark.parametrize(
    ("given_examples", "length", "message"),
    [
        ([], 8, "there must be texts to train on"),
        ([example([1, 2], [0, 0], 7)], 8, "got 0 in line 7 of a.jsonl; try: a text with an answer"),
        ([example([1] * 10, [1] * 10, 7)], 8, "got 9 in line 7 .* try: a higher max_tokens"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    given_examples: list[Example], length: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Packs(given_examples, length, seed=0)
    with pytest.raises(ConfigError, match="at least 1 position"):
        Packs(given_examples, 0, seed=0)


def test_rows_are_padded_to_the_longest() -> None:
    texts = [
        Labelled(np.array([5, 6, 7], dtype=np.int32), 2, "a", 1),
        Labelled(np.array([0], dtype=np.int32), 1, "a", 2),
    ]
    batch = Rows(texts, 9, seed=0).collate(np.array([1, 0]))
    assert {name: values.tolist() for name, values in batch.items()} == {
        "ids": [[0, 9, 9], [5, 6, 7]],
        "mask": [[1, 0, 0], [1, 1, 1]],
        "labels": [1, 2],
    }
    assert {str(values.dtype) for values in batch.values()} == {"int64"}


def test_sorting_within_a_window_pads_less_and_leaves_every_window_its_texts() -> None:
    texts = labelled(90)
    plain, sorted_ = Rows(texts, 0, seed=3), Rows(texts, 0, seed=3, window=32)
    assert isinstance(sorted_, Order)
    padded = [0, 0]
    for window in range(6):
        first = window * 32
        assert sorted(plain.chosen(first, 32)) == sorted(sorted_.chosen(first, 32))
        for number, rows in enumerate((plain, sorted_)):
            for beat in range(first, first + 32, 8):
                padded[number] += int((rows.take(beat, 8)["mask"] == 0).sum())
    assert padded[1] < 0.4 * padded[0]


def test_rows_can_be_taken_anywhere_and_come_once_in_an_epoch() -> None:
    rows = Rows(labelled(90), 0, seed=3, window=30)
    assert sorted(rows.chosen(0, 90).tolist()) == list(range(90))
    pieces = [rows.chosen(first, 7) for first in range(11, 81, 7)]
    assert np.concatenate(pieces).tolist() == rows.chosen(11, 70).tolist()
    assert rows.examples_per_epoch == 90


def test_a_tick_of_many_epochs_is_begun_at_once() -> None:
    rows = Rows(labelled(90), 0, seed=3, window=16 * 10**9)
    assert sorted(rows.chosen(0, 160)) == sorted(Rows(labelled(90), 0, seed=3).chosen(0, 160))


def test_rows_to_evaluate_on_come_in_their_own_order() -> None:
    rows = Rows(labelled(10), 0, seed=3)
    assert [batch["ids"][:, 0].tolist() for batch in rows.once(4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_by_length_every_text_comes_once_and_little_is_padded() -> None:
    texts = labelled(90)
    rows = Rows(texts, 0, seed=3)
    batches = list(rows.by_length(8))
    sizes = [batch["mask"].sum(1) for batch in batches]
    assert sorted(np.concatenate(sizes)) == sorted(len(text.ids) for text in texts)
    assert (np.diff(np.concatenate(sizes)) <= 0).all()
    assert len(batches) == 12
    padded, unsorted = (
        sum(int((batch["mask"] == 0).sum()) for batch in each) for each in (batches, rows.once(8))
    )
    assert padded < 0.2 * unsorted
    some = np.concatenate([batch["ids"][:, 0] for batch in rows.by_length(8, most=20)])
    assert sorted(some) == sorted(rows.chosen(0, 20))


def test_rows_need_texts_and_a_window() -> None:
    with pytest.raises(DataError, match="there must be texts to classify"):
        Rows([], 0, seed=0)
    with pytest.raises(ConfigError, match="a window must have at least 1 text"):
        Rows(labelled(3), 0, seed=0, window=0)
