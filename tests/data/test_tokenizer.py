import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.data import bpe_tokenizer
from metronorm.data.bpe_tokenizer import SEPARATOR, BPETokenizer, train_bpe
from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.data.tokenizer import Tokenizer, stream_decode
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import ConfigError, DataError

quick = settings(deadline=None, max_examples=150)

TEXT = (
    "It was the best of times, it was the worst of times: we're told they'll say it's 1789.\n\n"
    "\tLe cœur a ses raisons…  漢字かな交じり文 🎵🎶 and so on,   and so on.\r\n" * 20
)
any_text = st.text()
# what the rules of GPT-2 turn on: letters, digits, contractions, and every kind of space
tricky = st.text(
    st.sampled_from("ab1é漢🎵'st.<|>\u0301 \n\t\r\x0b\x1c\x85\xa0\u180e\u200b\u2003\u3000")
)


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return train_bpe([TEXT, None], 400)


@pytest.fixture(scope="module", params=["char", "bpe"])
def tokenizer(request: pytest.FixtureRequest, bpe: BPETokenizer) -> Tokenizer:
    return bpe if request.param == "bpe" else CharTokenizer("".join(sorted(set(TEXT))))


@quick
@given(text=st.one_of(any_text, tricky))
def test_bpe_gives_back_any_text(bpe: BPETokenizer, text: str) -> None:
    ids = bpe.encode(text)
    assert ids.dtype == np.int64
    assert ids.shape == (len(ids),)
    assert bpe.decode(ids) == text
    assert bpe.decode_bytes(ids) == text.encode()


@quick
@given(text=any_text)
def test_characters_give_back_any_text(text: str) -> None:
    tokenizer = CharTokenizer("".join(sorted({*text, "\n"})))
    assert tokenizer.vocab_size == len({*text, "\n"})
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert list(ids) == [tokenizer.characters.index(one) for one in text]


@quick
@given(text=tricky, data=st.data())
def test_a_stream_cut_anywhere_is_encoded_as_the_whole(
    bpe: BPETokenizer, text: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    rule = bpe._tokenizer.pre_tokenizer

    def words(piece: str) -> list[str]:
        return [word for word, _ in rule.pre_tokenize_str(piece)]

    cut = bpe_tokenizer._cut_safely(pieces)
    assert [word for piece in cut if piece for word in words(piece)] == words(text)
    stream = np.concatenate(list(bpe.encode_stream([*pieces, None, *pieces])))
    whole = bpe.encode(text)
    assert stream.tolist() == [*whole, bpe.separator, *whole]


def test_a_stream_of_many_pieces_is_encoded_as_the_whole(tokenizer: Tokenizer) -> None:
    pieces = [TEXT[i : i + 37] for i in range(0, len(TEXT), 37)]
    stream = np.concatenate(list(tokenizer.encode_stream(pieces)))
    assert np.array_equal(stream, tokenizer.encode(TEXT))


def test_a_text_without_spaces_is_cut_too(
    bpe: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe_tokenizer, "_LONGEST_PIECE", 100)
    monkeypatch.setattr(bpe_tokenizer, "_BATCH_CHARACTERS", 1000)
    pieces = ["漢字" * 10] * 300
    parts = list(bpe.encode_stream(pieces))
    assert len(parts) > 1
    assert bpe.decode(np.concatenate(parts)) == "".join(pieces)


long_runs = st.lists(
    st.tuples(
        st.sampled_from(
            ["a", "é", "漢", "1", "½", "-", "_", "'s", "🎵", "e\u0301", " ", "\n", "\r", "\0"]
        ),
        st.integers(1, 25),
    )
).map(lambda runs: "".join(one * count for one, count in runs))


@quick
@given(text=st.one_of(long_runs, tricky, any_text), longest=st.sampled_from([2, 8, 10]))
def test_runs_are_cut_at_the_longest_and_nothing_is_lost(
    bpe: BPETokenizer, text: str, longest: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_tokenizer, "_LONGEST_RUN", longest)
        parts = list(bpe_tokenizer._cut_runs(text))
        ids = bpe.encode(text)
    assert "".join(parts) == text
    runs = bpe_tokenizer._RUN
    assert all(len(run[0]) <= longest for part in parts for run in runs.finditer(part))
    assert bpe.decode(ids) == text
    if all(len(run[0]) <= longest for run in runs.finditer(text)):
        assert parts == [text]


@pytest.mark.parametrize("one", ["ACGT", "漢字仮名", "0123", "-=+*", " ", "ab1"])
def test_a_word_of_any_length_is_encoded_in_time_that_grows_with_it(
    bpe: BPETokenizer, monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    """What the library is given is what its time depends on: short words, however long the run."""
    words: list[str] = []
    real = bpe_tokenizer._cut_runs

    def watched(text: str) -> list[str]:
        parts = list(real(text))
        words.extend(
            word
            for part in parts
            for word, _ in bpe._tokenizer.pre_tokenizer.pre_tokenize_str(part)
        )
        return parts

    monkeypatch.setattr(bpe_tokenizer, "_cut_runs", watched)
    text = "A title\n" + one * 5000
    assert bpe.decode(bpe.encode(text)) == text
    assert max(map(len, words)) <= 1025 * len("漢".encode())
    learned = train_bpe([text], 300)
    assert learned.decode(learned.encode(text)) == text


def test_words_up_to_the_longest_are_encoded_as_the_library_does(bpe: BPETokenizer) -> None:
    text = " ".join(["x" * 1024, "漢" * 1024, "9" * 1024, "=" * 1024, " " * 1023])
    (whole,) = bpe._tokenizer.encode_batch_fast([text], add_special_tokens=False)
    assert bpe.encode(text).tolist() == whole.ids


def test_little_text_is_in_memory_at_once(
    bpe: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe_tokenizer, "_BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(bpe_tokenizer, "_LONGEST_PIECE", 500)
    given = 0

    def pieces() -> Iterator[str | None]:
        nonlocal given
        for piece in ["word " * 20, "x" * 100, None] * 100:
            given += len(piece or "")
            yield piece

    taken = 0
    for ids in bpe.encode_stream(pieces()):
        taken += len(bpe.decode(ids[ids != bpe.separator]))
        assert given - taken < 3 * 1000 + 500  # two batches are being encoded meanwhile
    assert given == taken


@quick
@given(data=st.data())
def test_streamed_text_is_the_text(bpe: BPETokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, bpe.vocab_size - 1)))
    pieces = list(stream_decode(bpe, ids))
    assert "".join(pieces) == bpe.decode(ids)
    assert all(pieces)


def test_a_character_is_streamed_when_its_last_byte_has_come(bpe: BPETokenizer) -> None:
    ids = bpe.encode("a🦆b")  # the duck is new, so it comes in several tokens
    assert len(ids) > 3
    assert list(stream_decode(bpe, ids)) == ["a", "🦆", "b"]
    assert list(stream_decode(bpe, ids[:-2])) == ["a", "\ufffd"]


def test_the_separator_spelled_out_in_a_text_is_ordinary_text(bpe: BPETokenizer) -> None:
    ids = bpe.encode(f"a{SEPARATOR}b")
    assert bpe.separator not in ids
    assert bpe.decode(ids) == f"a{SEPARATOR}b"
    assert bpe.decode([bpe.separator]) == SEPARATOR


def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    json.loads(path.read_text("utf-8"))
    loaded = load_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert (loaded.vocab_size, loaded.separator) == (tokenizer.vocab_size, tokenizer.separator)
    sample = TEXT[:200]
    assert np.array_equal(loaded.encode(sample), tokenizer.encode(sample))
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    if isinstance(loaded, BPETokenizer):
        ids = loaded.encode(f"x{SEPARATOR}")
        assert loaded.separator not in ids


def test_training_is_deterministic_across_processes(bpe: BPETokenizer, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from metronorm.data.bpe_tokenizer import train_bpe\n"
        "train_bpe([Path(sys.argv[1]).read_text('utf-8', 'strict')], 400).save(Path(sys.argv[2]))"
    )
    source, here, there = tmp_path / "a.txt", tmp_path / "here.json", tmp_path / "there.json"
    source.write_text(TEXT.replace("\r", ""), "utf-8")
    train_bpe([TEXT.replace("\r", "")], 400).save(here)
    subprocess.run([sys.executable, "-c", code, source, there], check=True)
    assert here.read_bytes() == there.read_bytes()


def test_a_small_text_gives_fewer_tokens_than_asked_for() -> None:
    tokenizer = train_bpe(["abab"], 1000)
    assert 257 <= tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode("ünseen")) == "ünseen"


def test_unknown_characters_are_named() -> None:
    tokenizer = CharTokenizer("abc ")
    with pytest.raises(DataError, match=r"'z' \(U\+007A\), 'é' \(U\+00E9\)"):
        tokenizer.encode("a zébz")
    assert tokenizer.decode(tokenizer.encode("azb", unknown=" ")) == "a b"
    with pytest.raises(ConfigError, match="one known character"):
        tokenizer.encode("azb", unknown="")
    with pytest.raises(ConfigError, match="one known character"):
        tokenizer.encode("azb", unknown="y")


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError):
        tokenizer.encode("a\ud800")


def test_a_line_feed_is_always_known() -> None:
    assert CharTokenizer("ab").characters == "ab\n"
    assert CharTokenizer("\nab").separator == 0


def test_a_character_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="once"):
        CharTokenizer("aba\n")


@pytest.mark.parametrize("ids", [[-1], [10_000], [0.5], [[1, 2]], ["a"]])
def test_wrong_ids_are_refused(tokenizer: Tokenizer, ids: list[object]) -> None:
    with pytest.raises(DataError, match="token ids must"):
        tokenizer.decode(ids)  # type: ignore[arg-type]


def test_one_id_and_none_are_decoded(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode(tokenizer.encode("t")[0]) == "t"


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"{}", b'{"metronorm": "characters"}', b'{"model": {"type": "BPE"}}'],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="tokenizer"):
        load_tokenizer(path)
    with pytest.raises(DataError, match="tokenizer"):
        load_tokenizer(tmp_path / "missing.json")


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    import tokenizers

    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(path))
    with pytest.raises(DataError, match="byte-level"):
        load_tokenizer(path)


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def of_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer file as that of Llama 3: its own rule for words, a token that begins texts."""
    import tokenizers

    level = tokenizers.pre_tokenizers.ByteLevel
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA_3), behavior="isolated")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [split, level(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=level.alphabet(), show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    made.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "<|begin_of_text|> $A",
        special_tokens=[("<|begin_of_text|>", made.token_to_id("<|begin_of_text|>"))],
    )
    made.enable_truncation(4)
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    made.save(str(path))
    return path


@settings(deadline=None, max_examples=60)
@given(text=tricky, data=st.data())
def test_a_tokenizer_of_hugging_face_is_used_as_it_is(
    of_llama: Path, text: str, data: st.DataObject
) -> None:
    import tokenizers

    ours, theirs = load_tokenizer(of_llama), tokenizers.Tokenizer.from_file(str(of_llama))
    theirs.no_truncation()
    theirs.encode_special_tokens = True
    assert ours.vocab_size == theirs.get_vocab_size()
    assert ours.separator == (end := theirs.token_to_id("<|end_of_text|>"))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    ids = np.concatenate(list(ours.encode_stream([*pieces, None])))
    assert ids.tolist() == [*theirs.encode(text, add_special_tokens=False).ids, end]
    assert ours.decode(ids[:-1]) == text


def test_what_ends_a_text_is_told_by_the_file_beside_it_and_kept(
    of_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(of_llama.read_bytes())
    config = tmp_path / "tokenizer_config.json"
    for said in ('"<|eot_id|>"', '{"content": "<|eot_id|>"}'):
        config.write_text(f'{{"eos_token": {said}}}')
        tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
        assert tokenizer.separator == tokenizer.vocab_size - 1
    (tmp_path / "run").mkdir()
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    again = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    assert again.separator == tokenizer.separator
    config.write_text('{"eos_token": "<|none|>"}')
    with pytest.raises(DataError, match=r"token <\|none\|>; got .*tokenizer\.json: BPE with the"):
        load_tokenizer(tmp_path / "tokenizer.json")
