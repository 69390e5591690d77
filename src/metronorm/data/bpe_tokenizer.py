"""Byte-level byte-pair encoding (Sennrich et al., 2016), with words split as GPT-2 does."""

from __future__ import annotations

import json
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.data.tokenizer import CONFIG_FILE, checked_ids, write_huggingface_config
from metronorm.errors import DataError, MissingDependencyError
from metronorm.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    import tokenizers
    from numpy.typing import ArrayLike

    from metronorm.data.tokenizer import Ids

SEPARATOR = "<|endoftext|>"
"""The token of BPE that ends a document. If a text spells it out, it is ordinary text."""

ENDS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>")
"""What the token that ends a document is called in tokenizers of others, unless
`tokenizer_config.json` beside the file says it."""

_UP_TO_LAST_SAFE_CUT = re.compile(r".*\S(?=[ \n])", re.DOTALL)
_UP_TO_LAST_SPACE = re.compile(r".*\S(?= )", re.DOTALL)
_LONGEST_PIECE = 1 << 20  # characters; a longer piece without a safe cut is cut anyway
_BATCH_CHARACTERS = 1 << 19  # encoded in parallel
_ENCODED_AT_ONCE = 2  # batches: while the last words of one are encoded, the next begins

_LONGEST_RUN = 1024
"""The most characters of one kind in a row that are learned and encoded as one word. The time of
the library grows with the square of a word's length; DNA, or Chinese without punctuation, is one
word."""

_KINDS = (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)", r"\s")  # GPT-2 splits words where two kinds meet
_RUN = re.compile("|".join(f"{kind}+" for kind in _KINDS))


class BPETokenizer:
    """Byte-level byte-pair encoding: any text, no unknown token (after GPT-2).

    Args:
        tokenizer: a tokenizer of the `tokenizers` library, byte-level BPE, with a special token
            that ends documents.
        end: that token; None: the first of `ENDS` that it has.

    Attributes:
        end: the text of the token that ends a document.

    Raises:
        DataError: the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, end: str | None = None) -> None:
        names = ENDS if end is None else (end,)
        ids: dict[str, Any] = {one: tokenizer.token_to_id(one) for one in names}
        found = next((one for one in names if ids[one] is not None), None)
        if (
            type(tokenizer.model).__name__ != "BPE"
            or type(tokenizer.decoder).__name__ != "ByteLevel"
            or found is None
        ):
            raise DataError(
                f"the tokenizer must be byte-level BPE and have the token {names[0]}",
                got=f"{type(tokenizer.model).__name__} with the decoder "
                f"{type(tokenizer.decoder).__name__}"
                + (f" and without the token {' or '.join(names)}" if found is None else ""),
                fix="a tokenizer.json that metronorm prepare wrote, or GPT-2's, Llama 3's, Qwen's",
            )
        tokenizer.encode_special_tokens = True  # `SEPARATOR` in a text is not a token
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.end = found
        self.separator: int = ids[found]
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1  # there may be ids without a token
        # other splits than GPT-2's may have a symbol and the line feed after it in one word
        is_gpt2s = type(tokenizer.pre_tokenizer).__name__ == "ByteLevel"
        self._safe_cut = _UP_TO_LAST_SAFE_CUT if is_gpt2s else _UP_TO_LAST_SPACE
        added = tokenizer.get_added_tokens_decoder()
        byte_of = _byte_of_letter()
        try:
            self._bytes = [
                added[i].content.encode()
                if i in added
                else bytes(byte_of[letter] for letter in tokenizer.id_to_token(i) or "")
                for i in range(self.vocab_size)
            ]
        except KeyError as error:
            raise DataError(
                "the tokens of byte-level BPE must be made of letters that stand for bytes",
                got=f"a token with {error.args[0]!r}",
            ) from None

    def encode(self, text: str) -> Ids:
        """Encode a text to ids, int64 (tokens,).

        More than 1,024 letters, digits, symbols or spaces in a row are encoded in parts of 1,024.

        Raises:
            DataError: the text has a lone surrogate, which UTF-8 cannot represent.
        """
        return _concatenated(self._encode_all([text]))

    def encode_stream(self, pieces: Iterable[str | None]) -> Iterator[Ids]:
        """Encode pieces of text; None becomes the separator.

        The ids are those of whole documents, wherever the pieces are cut, if every million
        characters of a document contain a space or line feed after other text; otherwise the text
        is cut there. At most about two million characters are in memory.

        Args:
            pieces: text in pieces cut anywhere; None ends a document.

        Yields:
            Ids of about half a million characters, int64 (tokens,).

        Raises:
            DataError: the text has a lone surrogate.
        """
        # The library uses all cores while it encodes, without Python's lock. Meanwhile this thread
        # reads what comes next, and makes arrays of what is done.
        waiting: deque[tuple[list[str | None], Future[list[Ids]]]] = deque()
        with ThreadPoolExecutor(_ENCODED_AT_ONCE) as pool:
            for batch in _batches(_cut_safely(pieces, self._safe_cut)):
                texts = [piece for piece in batch if piece is not None]
                waiting.append((batch, pool.submit(self._encode_all, texts)))
                if len(waiting) > _ENCODED_AT_ONCE:
                    yield self._with_ends(*waiting.popleft())
            while waiting:
                yield self._with_ends(*waiting.popleft())

    def _with_ends(self, batch: list[str | None], encoding: Future[list[Ids]]) -> Ids:
        """The ids of a batch, with those that end documents."""
        encoded, end = iter(encoding.result()), np.array([self.separator])
        return _concatenated(end if piece is None else next(encoded) for piece in batch)

    def decode(self, ids: ArrayLike) -> str:
        """Decode ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """Decode ids to bytes.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        return b"".join(self._bytes[i] for i in checked_ids(ids, self.vocab_size).tolist())

    def save(self, path: Path) -> None:
        """Write the tokenizer to `path`, in the format of the `tokenizers` library.

        Raises:
            OSError: the disk is full or the directory cannot be written; `path` is as it was.
        """
        write_atomic(path, self._tokenizer.to_str(pretty=True).encode())
        if self.end != SEPARATOR:  # what the file does not say
            content = {"eos_token": self.end}
            write_atomic(path.with_name(CONFIG_FILE), json.dumps(content, indent=2).encode())

    def save_huggingface(self, directory: Path, context: int) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which AutoTokenizer loads.

        Raises:
            OSError: the disk is full or the directory cannot be written.
        """
        self.save(directory / "tokenizer.json")
        write_huggingface_config(directory, context, self.end)

    def _encode_all(self, texts: list[str]) -> list[Ids]:
        parts = [list(_cut_runs(text)) for text in texts]
        try:
            encoded = self._tokenizer.encode_batch_fast(
                [part for text in parts for part in text], add_special_tokens=False
            )
        except (TypeError, UnicodeError) as error:
            raise DataError(
                "text must be Unicode without lone surrogates",
                got=str(error),
                fix="text.encode('utf-8', 'replace').decode()",
            ) from error
        ids = (np.array(one.ids, dtype=np.int64) for one in encoded)
        return [_concatenated(islice(ids, len(text))) for text in parts]


def train_bpe(pieces: Iterable[str | None], vocab_size: int) -> BPETokenizer:
    """Train byte-level BPE with words split as GPT-2 does; deterministic.

    Args:
        pieces: text in pieces cut anywhere; None ends a document.
        vocab_size: largest number of tokens, which includes the 256 bytes and the separator. A
            small text gives fewer.

    Raises:
        DataError: a piece cannot be read, or has a lone surrogate.
        MissingDependencyError: the package `tokenizers` is not installed.
    """
    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    level = library.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(level.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (part for piece in _cut_safely(pieces) if piece is not None for part in _cut_runs(piece)),
        trainer,
    )
    return BPETokenizer(tokenizer)


def tokenizers_library() -> Any:
    """Import the package `tokenizers`.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import tokenizers  # here, because the tokenizer of characters does not need it
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "BPE needs the package 'tokenizers'",
            got="no such package",
            fix="pip install 'metronorm[train]', or the tokenizer 'char'",
        ) from error
    return tokenizers


def _cut_safely(
    pieces: Iterable[str | None], safe_cut: re.Pattern[str] = _UP_TO_LAST_SAFE_CUT
) -> Iterator[str | None]:
    """Cut the text again, only before a space or line feed that follows a visible character.

    No word of GPT-2 extends over such a place, and no rule for words looks beyond it.

    Args:
        pieces: text in pieces cut anywhere; None ends a document.
        safe_cut: matches a text up to its last such place.
    """
    rest = ""  # has no safe cut
    for piece in pieces:
        if piece is not None:
            searched = max(len(rest) - 1, 0)
            rest += piece
            last = safe_cut.match(rest, searched)
            cut = last.end() if last else len(rest) if len(rest) > _LONGEST_PIECE else 0
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
            continue
        if rest:
            yield rest
        rest = ""
        yield None
    if rest:
        yield rest


def _cut_runs(text: str) -> Iterator[str]:
    """Cut a text after every `_LONGEST_RUN` characters of a run of one kind."""
    start = 0
    if _may_have_a_long_run(text):
        for run in _RUN.finditer(text):
            for at in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
                yield text[start:at]
                start = at
    yield text[start:]


def _may_have_a_long_run(text: str) -> bool:
    """Whether a run may be longer than `_LONGEST_RUN`.

    A long run covers at least one whole block of half that length.
    """
    half = _LONGEST_RUN // 2
    return any(_RUN.fullmatch(text, at, at + half) for at in range(0, len(text) - half + 1, half))


def _batches(pieces: Iterable[str | None]) -> Iterator[list[str | None]]:
    """Group pieces into lists of about `_BATCH_CHARACTERS` characters; None counts as one."""
    batch: list[str | None] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece or "\n")
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _concatenated(parts: Iterable[Ids]) -> Ids:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte is its own letter, the others follow from U+0100."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
