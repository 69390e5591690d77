import random
import re
from pathlib import Path

import pytest

from metronorm.data import bpe_sample, build
from metronorm.data.bpe_sample import learnable_bytes, sample_evenly
from metronorm.data.corpus import find_documents
from metronorm.data.split import Span


def spans_of(folder: Path, texts: list[str]) -> list[Span]:
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_text(text, "utf-8")
    return [Span(one, 0, one.bytes) for one in find_documents([folder]).documents]


def test_a_large_corpus_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_sample, "_BLOCK_BYTES", 1000)
    spans = spans_of(tmp_path, [f"é{i}" * 3000 for i in range(4)])
    sample = list(sample_evenly(spans, 9000))
    assert sum(span.stop - span.start for span in sample) == pytest.approx(9000, rel=0.01)
    assert {span.document.name for span in sample} == {f"{i}.txt" for i in range(4)}
    pieces = [piece for piece in build._pieces([sample], "reading") if piece]  # no broken character
    assert set("".join(pieces)) == set("é0123")
    assert list(sample_evenly(spans, 10**6)) == spans


def distinct_bytes(pieces: list[str]) -> int:
    words = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+|\s+")
    return len("".join({word for piece in pieces for word in words.findall(piece)}).encode())


@pytest.mark.parametrize("kind", ["ACGT", "漢字仮名交じり文", "abcdefgh0123456789"])
def test_bpe_learns_from_a_bounded_part_of_a_text_with_few_repeated_words(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe_sample, "_LEAST_DISTINCT_BYTES", 10_000)
    draw = random.Random(0)
    pieces = ["".join(draw.choices(kind, k=1000)) for _ in range(200)]
    limit = learnable_bytes([*pieces, None], 10)
    assert limit is not None
    text = "".join(pieces).encode()
    assert limit < len(text) / 2
    taken = pieces[: limit // len(pieces[0].encode())]
    assert 10_000 < distinct_bytes(taken) <= 10_000 + len(pieces[0].encode())
    more = learnable_bytes([*pieces, None], 30)  # 512 bytes for each token
    assert more is not None
    assert more > limit


def test_bpe_learns_from_the_whole_of_a_text_with_repeated_words() -> None:
    words = [f"word{i} and" for i in range(1000)]
    pieces: list[str | None] = [" ".join(words), None] * 500
    assert learnable_bytes(pieces, 300) is None
