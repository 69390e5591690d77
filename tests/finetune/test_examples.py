"""Examples in flat arrays."""

from __future__ import annotations

import numpy as np
import pytest

from metronorm.finetune.examples import Examples, LabelledExamples, Texts, hash_examples

TEXTS = Texts(
    np.arange(6, dtype=np.int32),
    np.array([2, 3, 6]),
    ("a.jsonl", "b.jsonl"),
    np.array([0, 0, 1], dtype=np.int32),
    np.array([1, 4, 2]),
)


def test_an_example_is_a_part_of_the_arrays() -> None:
    examples = Examples(TEXTS, np.arange(6, dtype=np.float32) / 2)
    assert len(examples) == 3
    ids, weights, source, line = examples[-1]
    assert (ids.tolist(), weights.tolist(), source, line) == (
        [3, 4, 5],
        [1.5, 2, 2.5],
        "b.jsonl",
        2,
    )
    assert [each.line for each in examples[:2]] == [1, 4]
    assert [len(each.ids) for each in examples] == [2, 1, 3]
    with pytest.raises(IndexError):
        examples[3]


def test_a_labelled_example_has_its_label() -> None:
    examples = LabelledExamples(TEXTS, np.array([5, 6, 7]))
    ids, label, source, line = examples[1]
    assert (ids.tolist(), label, source, line) == ([2], 6, "a.jsonl", 4)
    assert [each.label for each in examples[1:]] == [6, 7]


def test_some_texts_can_be_selected() -> None:
    kept = TEXTS.select(np.array([True, False, True]))
    assert kept.ids.tolist() == [0, 1, 3, 4, 5]
    assert (kept.ends.tolist(), kept.where(1)) == ([2, 5], ("b.jsonl", 2))


def test_a_hash_depends_on_all_that_is_trained_on_and_not_on_where_it_is_from() -> None:
    weights = np.ones(6, dtype=np.float32)
    first = hash_examples(Examples(TEXTS, weights))
    moved = Texts(TEXTS.ids, TEXTS.ends, ("c.jsonl",), np.zeros(3, dtype=np.int32), TEXTS.lines)
    assert hash_examples(Examples(moved, weights)) == first
    assert hash_examples(Examples(TEXTS, weights / 2)) != first
    assert hash_examples(Examples(TEXTS, weights), 512) != first
    other = Texts(TEXTS.ids, np.array([1, 3, 6]), TEXTS.files, TEXTS.file, TEXTS.lines)
    assert hash_examples(Examples(other, weights)) != first
    labels = LabelledExamples(TEXTS, np.array([0, 1, 2]))
    assert hash_examples(labels) != hash_examples(LabelledExamples(TEXTS, np.array([0, 1, 1])))
