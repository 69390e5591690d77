from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metronorm.data.corpus import Document, find_documents
from metronorm.data.split import Span, hold_out
from metronorm.errors import DataError


def write(folder: Path, sizes: list[int]) -> list[Document]:
    """Documents of these sizes, all of them different."""
    for number, size in enumerate(sizes):
        (folder / f"{number}.txt").write_bytes((b"%04d\n" % number * size)[:size])
    return list(find_documents([folder]).documents)


def held_out(documents: list[Document], share: float = 0.1, seed: int = 0) -> set[str]:
    """The names of what is held out; all of it whole."""
    training, validation = hold_out(documents, share, seed)
    assert training
    assert validation
    assert all((span.start, span.stop) == (0, span.document.bytes) for span in validation)
    kept = {span.document.name for span in training}
    out = {span.document.name for span in validation}
    assert kept.isdisjoint(out)
    assert kept | out == {document.name for document in documents}
    return out


def size_of(spans: list[Span]) -> int:
    return sum(span.stop - span.start for span in spans)


def test_whole_documents_are_held_out_near_the_share(tmp_path: Path) -> None:
    documents = write(tmp_path, [100 + i for i in range(40)])
    out = held_out(documents)
    assert 3 <= len(out) <= 5
    assert held_out(documents) == out
    assert any(held_out(documents, seed=seed) != out for seed in range(1, 4))
    assert 18 <= len(held_out(documents, share=0.5)) <= 22


def test_what_is_held_out_does_not_depend_on_where_the_corpus_lies(tmp_path: Path) -> None:
    held = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        held.append(held_out(write(tmp_path / name, [100 + i for i in range(20)])))
    assert held[0] == held[1]


@pytest.mark.parametrize("sizes", [[100] * 5, [100] * 9, [900, 800, 700, 700, 800, 900]])
def test_the_smallest_document_is_held_out_if_it_is_at_most_twice_the_share(
    tmp_path: Path, sizes: list[int]
) -> None:
    documents = write(tmp_path, sizes)
    for seed in range(5):
        (out,) = held_out(documents, seed=seed)
        assert sizes[int(out.partition(".")[0])] == min(sizes)


@pytest.mark.parametrize(
    ("sizes", "whole", "cut"),
    [
        ([1000, 10], {"1.txt"}, "0.txt"),
        ([10, 1000], {"0.txt"}, "1.txt"),
        ([900, 800, 700], set(), "0.txt"),
        ([500, 600], set(), "1.txt"),
        ([1000], set(), "0.txt"),
    ],
)
def test_the_end_of_the_largest_document_is_held_out_if_whole_ones_do_not_suffice(
    tmp_path: Path, sizes: list[int], whole: set[str], cut: str
) -> None:
    documents = write(tmp_path, sizes)
    for seed in range(3):
        training, validation = hold_out(documents, 0.1, seed)
        head, tail = training[-1], validation[-1]
        assert head.document.name == tail.document.name == cut
        assert (head.start, head.stop, tail.stop) == (0, tail.start, tail.document.bytes)
        assert {span.document.name for span in validation[:-1]} == whole
        assert size_of(training) + size_of(validation) == sum(sizes)
        assert size_of(validation) == pytest.approx(0.1 * sum(sizes), abs=5)


def test_a_long_last_line_does_not_change_the_share(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A title\n" + "alpha beta " * 200_000)
    (training,), (validation,) = hold_out(find_documents([path]).documents, 0.1, 0)
    assert size_of([validation]) / path.stat().st_size == pytest.approx(0.1, rel=1e-4)
    assert path.read_bytes()[training.stop - 1 : training.stop] == b" "


@pytest.mark.parametrize("text", ["a", "ab", "abc", "\ufeffa", "漢字"])
def test_a_text_too_short_for_the_share_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=r"for training and for validation; got \d bytes in /"):
        hold_out(find_documents([path]).documents, 0.1, 0)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
@given(
    texts=st.lists(
        st.text(st.sampled_from("ab \n\r漢🎵e\u0301\0"), min_size=25, max_size=120), min_size=1
    ),
    share=st.sampled_from([0.01, 0.1, 0.3, 0.5]),
    seed=st.integers(0, 3),
)
def test_every_byte_is_on_one_side_and_the_share_is_near(
    tmp_path: Path, texts: list[str], share: float, seed: int
) -> None:
    documents = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(text.encode())
        documents.append(Document(path.name, path, path.stat().st_size, 0))
    size = sum(document.bytes for document in documents)
    try:
        training, validation = hold_out(documents, share, seed)
    except DataError:
        assert share * size < 10  # less than a few characters of four bytes
        return
    assert share / 2 <= size_of(validation) / size <= share * 2
    covered = {document.name: b"" for document in documents}
    for span in (*training, *validation):
        content = span.document.path.read_bytes()[span.start : span.stop]
        content.decode()
        covered[span.document.name] += content
    assert covered == {document.name: document.path.read_bytes() for document in documents}
    assert sum(span.stop < span.document.bytes for span in training[:-1]) == 0
