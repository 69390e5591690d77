"""Tokens of rendered texts: which of them count, and what is cut of too long ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metronorm.errors import DataError
from metronorm.finetune import encoding
from metronorm.finetune.chat import ChatTemplate, Rendered
from metronorm.finetune.columns import Conversation
from metronorm.finetune.encoding import Encoded, Encoder, cut_middle, in_pieces
from tests.finetune.chats import CHATML, INST, LLAMA, STRADDLING, for_texts, said, tokenizer


def chat(template: str, *texts: str, begins: bool = False) -> tuple[Any, Encoded]:
    """A conversation's tokens, and the tokenizer."""
    made = tokenizer(template, begins=begins)
    learned = [number % 2 == 1 for number in range(len(texts))]
    rendered = ChatTemplate(made).render(Conversation(said(*texts), learned))
    (encoded,) = Encoder(made).encode("chat", rendered)
    assert encoded.refused is None
    return made, encoded


def counted(made: Any, encoded: Encoded) -> str:
    return str(made.decode(encoded.ids[encoded.counts]))


@pytest.mark.parametrize("template", [CHATML, LLAMA, INST])
@pytest.mark.parametrize("texts", [("a", "yes or no"), ("is it?", "yes", "€ 日本", "né 🎻")])
def test_the_answers_and_their_end_tokens_count(template: str, texts: tuple[str, ...]) -> None:
    made, encoded = chat(template, *texts)
    end = "<|eot|>" if template is LLAMA else "<|im_end|>"
    begin = " " if template is INST else ""
    assert counted(made, encoded) == "".join(f"{begin}{text}{end}" for text in texts[1::2])


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(deadline=None)
@given(st.sampled_from([CHATML, LLAMA, INST]), st.lists(TEXTS, min_size=4, max_size=4))
def test_any_answer_counts_and_nothing_else_but_space_in_its_first_token(
    template: str, texts: list[str]
) -> None:
    assume(all(text.strip() for text in texts))
    made, encoded = chat(template, *texts)
    runs = np.split(np.arange(len(encoded.ids)), np.flatnonzero(np.diff(encoded.counts)) + 1)
    found = [made.decode(encoded.ids[run]) for run in runs if encoded.counts[run[0]]]
    for answer, text in zip(found, texts[1::2], strict=True):
        said_ = text if template is CHATML else text.strip()
        begin, *rest = answer.rsplit(said_ + ("<|eot|>" if template is LLAMA else "<|im_end|>"), 1)
        assert not begin.strip()
        assert rest == [""]


def test_what_follows_the_end_token_does_not_count() -> None:
    made, encoded = chat(CHATML, "a", "b")
    assert made.decode(encoded.ids[-1:]) == "\n"
    assert encoded.counts[-2:].tolist() == [True, False]


def test_a_token_of_prompt_and_answer_belongs_to_the_answer() -> None:
    made, encoded = chat(STRADDLING, "is it?", "yes")
    assert [made.decode([token]) for token in encoded.ids[encoded.counts]] == [" yes", "<|im_end|>"]


@pytest.mark.parametrize("begins", [False, True])
def test_a_chat_begins_with_one_token_as_its_template_says(begins: bool) -> None:
    made, encoded = chat(LLAMA, "a", "b", begins=begins)
    assert (encoded.ids == made.bos_token_id).sum() == 1
    assert encoded.ids[0] == made.bos_token_id
    made, encoded = chat(CHATML, "a", "b", begins=begins)
    assert (encoded.ids == made.bos_token_id).sum() == 0


def test_the_tokens_that_end_answers_are_known() -> None:
    made = tokenizer(LLAMA)
    encoder = Encoder(made)
    rendered = ChatTemplate(made).render(Conversation(said("a", "b"), [False, True]))
    encoder.encode("chat", rendered * 2)
    assert encoder.ends == {made.convert_tokens_to_ids("<|eot|>"): 2}


def test_padding_with_the_end_token_changes_nothing() -> None:
    made, encoded = chat(CHATML, "a", "b")
    assert made.pad_token_id == made.eos_token_id
    assert made.eos_token_id in encoded.ids[encoded.counts]


@pytest.mark.parametrize("begins", [False, True])
def test_a_text_begins_and_ends_as_the_tokenizer_says_and_once(begins: bool) -> None:
    made = tokenizer(begins=begins)
    plain = Rendered("yes or no", [(0, 9)], [])
    ended = Rendered("yes or no<|im_end|>", [(0, 19)], [])
    begun = Rendered("<s>yes or no", [(0, 12)], [])
    first, second, third = Encoder(made).encode("text", [plain, ended, begun])
    assert made.decode(first.ids) == ("<s>" if begins else "") + "yes or no<|im_end|>"
    assert first.ids.tolist() == second.ids.tolist()
    assert made.decode(third.ids) == "<s>yes or no<|im_end|>"
    assert [each.counts.tolist() for each in (first, second, third)] == [
        [False] + [True] * (len(each.ids) - 1) for each in (first, second, third)
    ]


@pytest.mark.parametrize("begins", [False, True])
def test_only_the_answer_of_a_text_with_a_prompt_counts(begins: bool) -> None:
    made = tokenizer(begins=begins)
    text = "is it? yes"
    (encoded,) = Encoder(made).encode("text", [Rendered(text, [(6, len(text))], [(0, 6)])])
    assert counted(made, encoded) == " yes<|im_end|>"
    ((start, stop),) = encoded.prompts
    assert made.decode(encoded.ids[start:stop]) == "is it?"


def test_a_long_text_is_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the answer is yes\nor no and a tick moves it on\n" * 3 + "x" * 50
    made = tokenizer()
    whole = Encoder(made).encode("text", [Rendered(text, [(0, len(text))], [])])
    monkeypatch.setattr(encoding, "_LONGEST_PART", 20)
    parts = Encoder(made).encode("text", [Rendered(text, [(0, len(text))], [])] * 2)
    assert made.decode(parts[1].ids) == made.decode(whole[0].ids)
    assert parts[0].counts.tolist() == [False] + [True] * (len(parts[0].ids) - 1)


def test_a_text_to_classify_has_its_special_tokens_and_is_not_truncated() -> None:
    made = for_texts()
    long, empty = Encoder(made).encode(
        "classify", [Rendered("yes " * 40, [], []), Rendered("", [], [])]
    )
    assert len(long.ids) > 40
    assert (long.ids[0], long.ids[-1]) == (made.cls_token_id, made.sep_token_id)
    assert long.prompts == [(1, len(long.ids) - 1)]
    assert empty.refused is not None


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    slow: Any = Slow()
    with pytest.raises(DataError, match="must be one of the library tokenizers"):
        Encoder(slow)


def of(length: int, *prompts: tuple[int, int]) -> Encoded:
    """An example that counts where it is no prompt."""
    counts = np.ones(length, dtype=np.bool_)
    for start, stop in prompts:
        counts[start:stop] = False
    return Encoded(np.arange(length, dtype=np.int32), counts, list(prompts))


def test_the_middle_of_a_prompt_is_cut_and_nothing_of_the_answer() -> None:
    shorter = cut_middle(of(100, (5, 90)), 60)
    assert shorter is not None
    assert shorter.ids.tolist() == [*range(28), *range(68, 100)]
    assert shorter.counts.sum() == 15


def test_the_longest_prompts_are_cut_to_one_length() -> None:
    before = of(200, (0, 20), (30, 100), (110, 190))
    shorter = cut_middle(before, 101)
    assert shorter is not None
    assert len(shorter.ids) == 101
    kept = [int(((shorter.ids >= a) & (shorter.ids < b)).sum()) for a, b in before.prompts]
    assert kept == [20, 26, 25]


@pytest.mark.parametrize(("most", "possible"), [(31, True), (30, False)])
def test_a_prompt_keeps_a_few_tokens_or_the_example_cannot_be_cut(
    most: int, possible: bool
) -> None:
    assert (cut_middle(of(95, (0, 80)), most) is not None) == possible
    assert cut_middle(of(95), most) is None


@pytest.mark.parametrize("size", [17, 24, 25, 33])
def test_a_text_in_pieces_has_all_its_tokens(size: int) -> None:
    pieces = in_pieces(of(size), 8)
    assert np.concatenate([each.ids for each in pieces]).tolist() == list(range(size))
    assert all(2 <= len(each.ids) <= 8 for each in pieces)
    assert all(each.counts.tolist() == [False] + [True] * (len(each.ids) - 1) for each in pieces)
