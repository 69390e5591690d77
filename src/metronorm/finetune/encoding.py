"""From rendered texts to tokens: which of them count, and what is left out of too long ones.

A token counts if any of its characters is of an answer: one that begins in the prompt and ends in
the answer belongs to the answer. The first token of an example counts never, as nothing comes
before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.data.refused import RowRefused
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from metronorm.finetune.chat import Rendered

    Span = tuple[int, int]

_LONGEST_PART = 1 << 20  # characters

LEAST_KEPT = 16
"""Tokens that stay of each part of a prompt that is cut, half of them at its beginning."""


class Encoded(NamedTuple):
    """The tokens of an example.

    Attributes:
        ids: int32 (tokens,).
        counts: bool (tokens,), whether the token is of an answer.
        prompts: spans (start, stop) of tokens that may be cut, in order.
        refused: why they cannot be used.
    """

    ids: NDArray[np.int32]
    counts: NDArray[np.bool_]
    prompts: list[Span]
    refused: RowRefused | None = None


class Encoder:
    """Makes tokens of texts.

    Args:
        tokenizer: from `transformers`.

    Attributes:
        ends: the tokens that answers ended with, and how often.

    Raises:
        DataError: the tokenizer cannot say which characters a token is made of.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                "the tokenizer must be one of the library tokenizers (tokenizer.json)",
                got=f"a {type(tokenizer).__name__}",
                fix="AutoTokenizer.from_pretrained(model).save_pretrained(model)",
            )
        self._tokenizer = tokenizer
        self._special = {*tokenizer.all_special_ids} | {
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._end: int | None = tokenizer.eos_token_id
        begin = tokenizer.bos_token_id
        self._begin = begin if begin in tokenizer("")["input_ids"][:1] else None
        self.ends: Counter[int] = Counter()

    def encode(self, task: str, rendered: Sequence[Rendered]) -> list[Encoded]:
        """The tokens of rendered texts, as the task chat, text or classify needs them."""
        if task == "chat":
            return self._chats(rendered)
        return self._texts(rendered) if task == "text" else self._texts_to_classify(rendered)

    def _chats(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """The tokens of rendered chats; their special tokens are those of the template."""
        found = []
        for one, encoding in zip(
            rendered, self._batch([each.text for each in rendered]), strict=True
        ):
            encoded = _located(one, encoding)
            encoded.counts[:1] = False
            if not all(self._ends(stop, encoded, encoding) for _, stop in one.answers):
                refused = RowRefused("the last token of an answer is not special")
                encoded = encoded._replace(refused=refused)
            found.append(encoded)
        return found

    def _ends(self, stop: int, encoded: Encoded, encoding: Any) -> bool:
        """Whether a special token that counts ends at a character, and note which one it is."""
        token = _first_from(stop, encoding) - 1
        number = int(encoded.ids[token])
        if encoding.token_to_chars(token)[1] != stop or number not in self._special:
            return False
        self.ends[number] += 1
        return bool(encoded.counts[token])

    def _texts(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """The tokens of texts, with the tokens that the tokenizer begins and ends a text with."""
        found = []
        for ids, counts, prompts, _ in self._without_ends(rendered):
            if self._begin is not None and ids[:1].tolist() != [self._begin]:
                ids, counts = np.insert(ids, 0, self._begin), np.insert(counts, 0, False)
                prompts = [(start + 1, stop + 1) for start, stop in prompts]
            if self._end is not None:
                if ids[-1:].tolist() != [self._end]:
                    ids, counts = np.append(ids, np.int32(self._end)), np.append(counts, True)
                self.ends[self._end] += 1
            counts[:1] = False
            found.append(Encoded(ids, counts, prompts))
        return found

    def _without_ends(self, rendered: Sequence[Rendered]) -> Iterator[Encoded]:
        short = [each for each in rendered if not _is_long(each)]
        encodings = iter(self._batch([each.text for each in short]) if short else ())
        for each in rendered:
            if not _is_long(each):
                yield _located(each, next(encodings))
                continue
            parts = (self._batch([part])[0].ids for part in _parts(each.text))
            ids = np.concatenate([np.array(part, dtype=np.int32) for part in parts])
            yield Encoded(ids, np.ones(len(ids), dtype=np.bool_), [])

    def _texts_to_classify(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """The tokens of texts to classify, with the special tokens of a single text."""
        found = []
        for encoding in self._batch([each.text for each in rendered], special=True):
            words = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
            span = [(int(words[0]), int(words[-1]) + 1)] if len(words) else []
            ids = np.array(encoding.ids, dtype=np.int32)
            refused = None if span else RowRefused("the text has no tokens")
            found.append(Encoded(ids, np.zeros(len(ids), dtype=np.bool_), span, refused))
        return found

    def _batch(self, texts: Sequence[str], *, special: bool = False) -> Any:
        return self._tokenizer(
            list(texts),
            add_special_tokens=special,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        ).encodings


def _located(rendered: Rendered, encoding: Any) -> Encoded:
    """The tokens of a render, and which of them its spans of characters are."""
    ids = np.array(encoding.ids, dtype=np.int32)
    counts = np.zeros(len(ids), dtype=np.bool_)
    for start, stop in rendered.answers:
        counts[_first_ending_after(start, encoding) : _first_from(stop, encoding)] = True
    prompts = []
    for start, stop in rendered.prompts:
        span = _first_from(start, encoding), _first_ending_after(stop, encoding)
        if span[0] < span[1]:
            prompts.append(span)
    return Encoded(ids, counts, prompts)


def cut_middle(encoded: Encoded, most: int) -> Encoded | None:
    """The example without the middle of its prompts, so that it has `most` tokens.

    The longest prompts are cut first, down to one length. None if this is not enough: then each
    would have fewer than `LEAST_KEPT` tokens.
    """
    lengths = [stop - start for start, stop in encoded.prompts]
    excess = len(encoded.ids) - most

    def cut_at(level: int) -> list[int]:
        return [max(0, length - level) for length in lengths]

    if sum(cut_at(LEAST_KEPT)) < excess:
        return None
    levels = range(LEAST_KEPT, max(lengths) + 1)
    level = levels[bisect_right(levels, -excess, key=lambda level: -sum(cut_at(level))) - 1]
    cuts = cut_at(level)
    spare = sum(cuts) - excess  # fewer than there are parts to cut
    keep = np.ones(len(encoded.ids), dtype=np.bool_)
    for (start, stop), cut in zip(encoded.prompts, cuts, strict=True):
        if cut and spare:
            cut, spare = cut - 1, spare - 1
        first = start + (stop - start - cut + 1) // 2
        keep[first : first + cut] = False
    return Encoded(encoded.ids[keep], encoded.counts[keep], [])


def in_pieces(encoded: Encoded, most: int) -> list[Encoded]:
    """A text in pieces of at most `most` tokens, each an example; none has a single token."""
    size = len(encoded.ids)
    cuts = list(range(most, size, most))
    if size % most == 1:
        cuts[-1] -= 1
    pieces = []
    for start, stop in zip([0, *cuts], [*cuts, size], strict=True):
        counts = encoded.counts[start:stop].copy()
        counts[:1] = False
        pieces.append(Encoded(encoded.ids[start:stop], counts, []))
    return pieces


def _is_long(rendered: Rendered) -> bool:
    """Whether to encode a text in parts: the library needs a hundred bytes for each token."""
    return len(rendered.text) > _LONGEST_PART and not rendered.prompts


def _parts(text: str) -> Iterator[str]:
    """A text in parts that end where a line ends, or at least a word, if there is such a place."""
    start = 0
    while len(text) - start > _LONGEST_PART:
        stop = start + _LONGEST_PART
        found = (text.rfind(sign, start + 1, stop) for sign in "\n ")
        stop = next((place for place in found if place > 0), stop)
        yield text[start:stop]
        start = stop
    yield text[start:]


def _first_ending_after(place: int, encoding: Any) -> int:
    """The first token with a character at `place` or later."""
    places = range(len(encoding))
    return bisect_right(places, place, key=lambda token: encoding.token_to_chars(token)[1])


def _first_from(place: int, encoding: Any) -> int:
    """The first token that begins at `place` or later."""
    places = range(len(encoding))
    return bisect_left(places, place, key=lambda token: encoding.token_to_chars(token)[0])
