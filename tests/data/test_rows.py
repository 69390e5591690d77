"""Documents in rows, in compressed files and in saved data sets: the same tokens as from texts."""

import csv
import gzip
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metronorm.data.build import DOCUMENTS
from metronorm.data.config import TextConfig
from metronorm.data.dataset import TextDataset
from metronorm.data.text import prepare
from metronorm.errors import ConfigError, DataError, MissingDependencyError

TEXTS = [f"Document {i}: all in good time,\n\n“tick”, {'x' * (i % 7)}" * (i + 1) for i in range(60)]


def zstandard(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return bytes(sink.getvalue())


def jsonl(texts: list[str], column: str = "text") -> bytes:
    return b"".join(
        json.dumps({"id": i, column: text}).encode() + b"\n" for i, text in enumerate(texts)
    )


def as_csv(texts: list[str]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["n", "text"])
    writer.writerows(enumerate(texts))
    return out.getvalue().encode()


def write_parquet(path: Path, texts: list[str]) -> None:
    table = pyarrow.table({"id": range(len(texts)), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=7)


def write_saved(folder: Path, texts: list[str]) -> None:
    """A data set as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir()
    files = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    half = len(texts) // 2
    for name, part in zip(files, (texts[:half], texts[half:]), strict=True):
        table = pyarrow.table({"text": part})
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
    state = {"_data_files": [{"filename": name} for name in files], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    (folder / "cache-1.arrow").write_bytes(b"not of the data set")


FORMS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": lambda path: path.write_bytes(jsonl(TEXTS)) and None,
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(TEXTS))) and None,
    "a.ndjson.zst": lambda path: path.write_bytes(zstandard(jsonl(TEXTS))) and None,
    "a.json": lambda path: path.write_text(json.dumps([{"text": one} for one in TEXTS])) and None,
    "a.csv": lambda path: path.write_bytes(as_csv(TEXTS)) and None,
    "a.csv.zst": lambda path: path.write_bytes(zstandard(as_csv(TEXTS))) and None,
    "a.parquet": lambda path: write_parquet(path, TEXTS),
    "saved": lambda path: write_saved(path, TEXTS),
}


def prepared(tmp_path: Path, *data: Path | str, **options: object) -> TextDataset:
    sources = tuple(map(str, data))
    return prepare(TextConfig(data=sources, cache=tmp_path / "cache", **options))  # type: ignore[arg-type]


def documents_of(tokens: np.ndarray, dataset: TextDataset) -> list[str]:
    """The documents in a token file of BPE."""
    whole = dataset.tokenizer.decode(tokens)
    assert whole.endswith("<|endoftext|>")
    return whole.split("<|endoftext|>")[:-1]


@pytest.fixture(scope="module")
def from_jsonl(tmp_path_factory: pytest.TempPathFactory) -> TextDataset:
    folder = tmp_path_factory.mktemp("jsonl")
    FORMS["a.jsonl"](folder / "a.jsonl")
    return prepared(folder, folder / "a.jsonl", tokenizer="bpe", vocab_size=300)


def test_rows_are_documents_and_each_is_on_one_side(from_jsonl: TextDataset) -> None:
    train, held = (
        documents_of(tokens, from_jsonl) for tokens in (from_jsonl.train, from_jsonl.validation)
    )
    assert sorted([*train, *held]) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text not in held]  # in their order
    size = sum(len(text.encode()) for text in TEXTS)
    assert 0.05 < sum(len(text.encode()) for text in held) / size < 0.15
    assert from_jsonl.meta.held_out == [f"a.jsonl: {len(held)} rows"]
    assert not (from_jsonl.directory / DOCUMENTS).exists()


@pytest.mark.parametrize("form", FORMS)
def test_the_same_texts_are_the_same_tokens_in_any_form(
    tmp_path: Path, from_jsonl: TextDataset, form: str
) -> None:
    FORMS[form](tmp_path / form)
    dataset = prepared(tmp_path, tmp_path / form, tokenizer="bpe", vocab_size=300)
    assert dataset.sha256 == from_jsonl.sha256
    assert prepared(tmp_path, tmp_path / form, tokenizer="bpe", vocab_size=300).reused


def test_a_folder_gives_its_texts_and_its_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.jsonl").write_bytes(jsonl(TEXTS))
    (folder / "b.txt").write_text("A text of its own. " * 30)
    (folder / "c.md.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfAn unpacked text.\r\n" * 30))
    (folder / "other.csv").write_text("x,y\n1,2\n")  # another table
    with caplog.at_level(logging.WARNING, "metronorm"):
        dataset = prepared(tmp_path, folder, tokenizer="bpe", vocab_size=300)
    assert caplog.messages == ["left out of the text: files without the column 'text': 1"]
    ledger = dataset.meta.ledger
    assert ledger is not None
    assert ledger.read.documents == len(TEXTS) + 2
    assert ledger.passed_over == {"files without the column 'text'": 1}
    texts = [
        *documents_of(dataset.train, dataset),
        *documents_of(dataset.validation, dataset),
    ]
    assert "An unpacked text.\n" + "\ufeffAn unpacked text.\n" * 29 in texts


def test_a_folder_behind_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_parquet(tmp_path / "elsewhere" / "blob", TEXTS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "a.parquet").symlink_to(tmp_path / "elsewhere" / "blob")
    (tmp_path / "elsewhere" / "b.txt").write_text("Behind a link. " * 100)
    dataset = prepared(tmp_path, tmp_path / "folder")
    assert dataset.meta.ledger is not None
    assert dataset.meta.ledger.read.documents == len(TEXTS) + 1
    assert not dataset.meta.ledger.left_out


def test_a_column_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path: Path) -> None:
    for form in ("a.jsonl", "a.csv", "a.parquet"):
        FORMS[form](tmp_path / form)
        with pytest.raises(DataError, match=rf"column 'body'; got the columns .*text in .*{form}"):
            prepared(tmp_path, tmp_path / form, column="body")
    (tmp_path / "b.jsonl").write_bytes(jsonl(TEXTS, "body"))
    assert prepared(tmp_path, tmp_path / "b.jsonl", column="body").meta.train.documents
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "c.jsonl").write_bytes(jsonl(TEXTS, "body"))
    with pytest.raises(DataError, match="the columns id, body"):
        prepared(tmp_path, tmp_path / "folder")


def test_without_a_column_files_of_rows_are_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS))
    dataset = prepared(tmp_path, tmp_path / "a.jsonl", column="")
    assert dataset.tokenizer.decode(dataset.train).startswith('{"id": 0, "text": "Document 0')


def test_what_cannot_be_used_is_left_out_by_reason(tmp_path: Path) -> None:
    lines = jsonl(TEXTS) + b'{"text": "torn\n[1]\n{"text": 3}\n{"text": null}\n{"text": " "}\n\n'
    lines += b'{"text": "caf\xe9"}\n' + jsonl(TEXTS[:2]).replace(b"\\n", b"\\r\\n")
    (tmp_path / "a.jsonl").write_bytes(lines)
    dataset = prepared(tmp_path, tmp_path / "a.jsonl")
    ledger = dataset.meta.ledger
    assert ledger is not None
    assert {reason: count.documents for reason, count in ledger.left_out.items()} == {
        "rows: not JSON": 1,
        "rows: no JSON object": 1,
        "rows: 'text' is no text": 1,
        "rows: nothing in 'text'": 1,
        "without text": 1,
        "rows: not UTF-8": 1,
        "copies of other documents": 2,
    }
    assert ledger.read.documents == len(TEXTS) + 8
    assert ledger.adds_up(dataset.meta.train, dataset.meta.validation)


def test_rows_without_any_text_are_an_error_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": 1}\n{"text": "torn\n')
    with pytest.raises(DataError, match=r"none in 2 rows of .*is no text: 1, .*\(as line 1 of"):
        prepared(tmp_path, tmp_path / "a.jsonl")


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_torn_file_is_an_error(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix == "gz" else zstandard
    whole = compress(jsonl(TEXTS * 20))
    path = tmp_path / f"a.jsonl.{suffix}"
    for data in (whole[: len(whole) // 2], b"no such file at all\n" * 50):
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"must be whole; got .*a\.jsonl\.{suffix}"):
            prepared(tmp_path, path)
    path.write_bytes(whole + compress(b'{"text": "a second frame"}\n'))
    assert prepared(tmp_path, path).meta.ledger.read.documents == 20 * len(TEXTS) + 1  # type: ignore[union-attr]
    assert not [each for each in (tmp_path / "cache" / "text").iterdir() if each.suffix == ".tmp"]


@pytest.mark.parametrize("name", ["a.parquet", "saved/data-00001-of-00002.arrow"])
def test_a_damaged_file_is_an_error(tmp_path: Path, name: str) -> None:
    form = name.partition("/")[0]
    FORMS[form](tmp_path / form)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="must be whole"):
        prepared(tmp_path, tmp_path / form)


def test_text_in_a_compressed_file_must_be_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"plain\n" * 20_000 + b"na\xefve\n"))
    with pytest.raises(DataError, match=r"byte 0xef in line 20001 of .*a\.txt\.gz"):
        prepared(tmp_path, tmp_path / "a.txt.gz")


def test_a_compressed_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="compressed in itself"):
        prepared(tmp_path, tmp_path / "a.parquet.gz")


def test_a_data_set_with_several_splits_must_be_named_with_one(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    for split in ("train", "test"):
        write_saved(tmp_path / "all" / split, TEXTS)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"with the splits train, test; try: .*all/train or"):
        prepared(tmp_path, tmp_path / "all")
    assert prepared(tmp_path, tmp_path / "all" / "train").meta.ledger
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert prepared(tmp_path, tmp_path / "all").meta.ledger


def test_a_data_set_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_saved(tmp_path / "saved", TEXTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'metronorm\[text\]'"):
        prepared(tmp_path, tmp_path / "saved")


def test_a_text_alone_is_cut_and_its_end_held_out(tmp_path: Path) -> None:
    text = "".join(f"Line {i} of the only document.\n" for i in range(2000))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    dataset = prepared(tmp_path, tmp_path / "a.txt.gz")
    train, held = (
        dataset.tokenizer.decode(tokens) for tokens in (dataset.train, dataset.validation)
    )
    assert train + held == text + "\n"
    assert train.endswith("\n")
    (tmp_path / "a.txt").write_text(text)
    assert prepared(tmp_path, tmp_path / "a.txt").sha256 == dataset.sha256  # the same rules
    assert dataset.meta.held_out[-1].startswith("a.txt.gz from byte ")


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    class Pipe:
        buffer = io.BytesIO(data)

        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr("sys.stdin", Pipe())


@pytest.mark.parametrize("form", ["a.jsonl", "a.jsonl.gz", "a.ndjson.zst", "a.parquet"])
def test_standard_input_is_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_jsonl: TextDataset, form: str
) -> None:
    FORMS[form](tmp_path / form)
    data = (tmp_path / form).read_bytes()
    for reused in (False, True):
        piped(monkeypatch, data)
        dataset = prepared(tmp_path, "-", tokenizer="bpe", vocab_size=300)
        assert (dataset.sha256, dataset.reused) == (from_jsonl.sha256, reused)
    piped(monkeypatch, jsonl(TEXTS[1:]))
    other = prepared(tmp_path, "-", tokenizer="bpe", vocab_size=300)
    assert other.directory != dataset.directory
    assert other.meta.held_out[0].startswith("standard input: ")
    assert len(list((tmp_path / "cache" / "text").iterdir())) == 2


def test_text_is_read_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"All in good time.\r\n" * 200)
    dataset = prepared(tmp_path, "-")
    assert dataset.tokenizer.decode(dataset.train).startswith("All in good time.\nAll")
    piped(monkeypatch, b"")
    with pytest.raises(DataError, match="must contain some text"):
        prepared(tmp_path, "-")
    for data in (b"caf\xe9 " * 300, b"abc"):
        piped(monkeypatch, data)
        with pytest.raises(DataError, match="standard input") as failed:
            prepared(tmp_path, "-")
        assert str(tmp_path) not in str(failed.value)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="reads what is piped"):
        prepared(tmp_path, "-")
    with pytest.raises(ConfigError, match="read once"):
        TextConfig(data=("-", "-"))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(ConfigError, match="read by one process; got 2"):
        prepared(tmp_path, "-")


def test_validation_data_is_held_out_and_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS))
    held = [*TEXTS[:5], "Only in the validation data."]
    (tmp_path / "v.jsonl").write_bytes(jsonl([*held, held[0]]))
    options = {"tokenizer": "bpe", "vocab_size": 300}
    dataset = prepared(
        tmp_path, tmp_path / "a.jsonl", validation_data=(str(tmp_path / "v.jsonl"),), **options
    )
    assert documents_of(dataset.validation, dataset) == held
    assert documents_of(dataset.train, dataset) == TEXTS[5:]
    ledger = dataset.meta.ledger
    assert ledger is not None
    left = {reason: count.documents for reason, count in ledger.left_out.items()}
    assert left == {"copies of documents that are held out": 5, "copies of other documents": 1}
    assert not prepared(tmp_path, tmp_path / "a.jsonl", **options).reused
    both = (str(tmp_path / "a.jsonl"),)
    with pytest.raises(DataError, match="60 are copies of documents that are held out"):
        prepared(tmp_path, *both, validation_data=both)


def test_texts_can_be_held_out_by_name(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:02}.txt").write_text(text)
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "b.txt").write_text("Held out. " * 20)
    dataset = prepared(
        tmp_path, tmp_path / "*.txt", validation_data=(str(tmp_path / "held"),), tokenizer="char"
    )
    assert dataset.tokenizer.decode(dataset.validation) == "Held out. " * 20 + "\n"
    assert dataset.tokenizer.decode(dataset.train) == "".join(f"{text}\n" for text in TEXTS)


def test_every_source_with_a_weight_is_a_stretch_of_the_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS[:40]))
    (tmp_path / "b").mkdir()
    for number, text in enumerate(TEXTS[38:]):  # two of them are in the first source
        (tmp_path / "b" / f"{number:02}.txt").write_text(text)
    sources = (tmp_path / "a.jsonl", tmp_path / "b")
    options = {"tokenizer": "bpe", "vocab_size": 300}
    dataset = prepared(tmp_path, *sources, weights=(3, 1), **options)
    first, second = (documents_of(part, dataset) for part in dataset.parts)
    held = documents_of(dataset.validation, dataset)
    assert first == [text for text in TEXTS[:40] if text not in held]
    assert second == [text for text in TEXTS[40:] if text not in held]
    for part in (TEXTS[:40], TEXTS[40:]):  # of each its share
        size = sum(map(len, part))
        assert 0.05 < sum(len(text) for text in held if text in part) / size < 0.2
    assert np.array_equal(np.concatenate(dataset.parts), dataset.train)
    assert prepared(tmp_path, *sources, weights=(1, 5), **options).reused  # the same tokens
    assert prepared(tmp_path, *sources, **options).parts == []
    dataset.check_context(64)
    with pytest.raises(DataError, match=r"training part of .*a\.jsonl must hold"):
        dataset.check_context(min(map(len, dataset.parts)))


KINDS = st.sampled_from(["text", "copy", "crlf", "blank", "number", "torn", "held", "null"])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kinds=st.lists(KINDS, max_size=30),
    texts=st.lists(st.text(max_size=40), max_size=10),
    plain=st.booleans(),
    held=st.booleans(),
)
def test_the_ledger_adds_up(
    tmp_path: Path, kinds: list[str], texts: list[str], *, plain: bool, held: bool
) -> None:
    """Counted here: every row that is written; there: where each of them went."""
    lines = {
        "text": b"", "copy": b'{"text": "again\\nand again"}', "blank": b'{"text": "\\n "}',
        "crlf": b'{"text": "\\ufeffagain\\r\\nand again"}', "number": b'{"text": 1}',
        "torn": b'{"text": "', "held": b'{"text": "held out"}', "null": b"{}",
    }  # fmt: skip
    rows = [lines[kind] or json.dumps({"text": f"row {i} " * 9}).encode()
            for i, kind in enumerate(kinds)]  # fmt: skip
    rows += [json.dumps({"text": text}).encode() for text in texts]
    rows = [json.dumps({"text": f"{i} of those that are there " * 5}).encode()
            for i in range(20)] + rows  # fmt: skip
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    (folder / "a.jsonl").write_bytes(b"\n".join(rows))
    documents = len(rows)
    if plain:
        (folder / "b.txt").write_text("again\nand again")
        (folder / "empty.txt").write_text("")
        documents += 2
    (tmp_path / "v.jsonl").write_bytes(b'{"text": "held out"}\n' * 2)
    documents += 2 * held
    validation = (str(tmp_path / "v.jsonl"),) if held else ()
    meta = prepared(tmp_path, folder, validation_data=validation).meta
    ledger = meta.ledger
    assert ledger is not None
    assert ledger.read.documents == documents
    assert ledger.adds_up(meta.train, meta.validation)
    left = sum(count.documents for count in ledger.left_out.values())
    assert meta.train.documents + meta.validation.documents - ledger.cut + left == documents
    content = [each for each in meta.held_out if "byte" in each]
    assert ledger.cut == len(content)


PEAK = """
import sys
from pathlib import Path
from metronorm.data.config import TextConfig
from metronorm.data.text import prepare
prepare(TextConfig(data=(sys.argv[1],), cache=Path(sys.argv[1]).with_suffix("")))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks_kib = []
    for mebibytes in (4, 40):
        path = tmp_path / f"{mebibytes}.jsonl"
        with open(path, "wb") as file:
            for number in range(mebibytes * 256):
                file.write(b'{"text": "%d %s"}\n' % (number, b"all in good time " * 240))
        peaks_kib.append(int(subprocess.check_output([sys.executable, "-c", PEAK, str(path)])))
    assert peaks_kib[1] - peaks_kib[0] < 16 << 10
