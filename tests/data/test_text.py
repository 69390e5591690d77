import errno
import hashlib
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metronorm.cli.prepare import main
from metronorm.data import build
from metronorm.data.bpe_tokenizer import BPETokenizer
from metronorm.data.config import TextConfig
from metronorm.data.corpus import Span, find_documents
from metronorm.data.text import TextDataset, open_dataset, prepare
from metronorm.errors import DataError

WORDS = "the clock ticks once for every update — and the norm keeps the scale\n"


@pytest.fixture
def config(tmp_path: Path) -> TextConfig:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02}.txt").write_text(f"Document {i}\n" + WORDS * (40 + i), "utf-8")
    return TextConfig(data=(str(folder),), cache=tmp_path / "cache")


def texts(dataset: TextDataset) -> tuple[str, str]:
    decode = dataset.tokenizer.decode
    return decode(dataset.train), decode(dataset.validation)


def leftovers(config: TextConfig) -> list[Path]:
    assert config.cache
    return list(config.cache.rglob("*.tmp"))


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_the_token_files_hold_the_documents_whole(config: TextConfig, kind: str) -> None:
    config = replace(config, tokenizer=kind, vocab_size=300)  # type: ignore[arg-type]
    dataset = prepare(config)
    end = dataset.tokenizer.decode([dataset.tokenizer.separator])
    folder = Path(config.data[0])
    files = {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir())}
    held = dataset.meta.held_out
    assert 0 < len(held) < 12
    train, validation = texts(dataset)
    assert train == "".join(text + end for name, text in files.items() if name not in held)
    assert validation == "".join(files[name] + end for name in held)
    assert dataset.train.dtype == np.uint16
    assert not dataset.train.flags.writeable
    for tokens, meta in (
        (dataset.train, dataset.meta.train),
        (dataset.validation, dataset.meta.validation),
    ):
        assert len(tokens) == meta.tokens
        assert hashlib.sha256(tokens.tobytes()).hexdigest() == meta.sha256
    characters = sum(len(files[name]) for name in held)
    if kind == "char":
        assert dataset.characters_per_token == 1
    else:
        assert isinstance(dataset.tokenizer, BPETokenizer)
        assert dataset.characters_per_token == characters / len(dataset.validation)
    assert dataset.meta.train.bytes + dataset.meta.validation.bytes == sum(
        path.stat().st_size for path in folder.iterdir()
    )


def test_of_one_document_the_two_sides_make_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\ufeff" + WORDS.replace("\n", "\r\n") * 100, "utf-8", newline="")
    dataset = prepare(TextConfig(data=(str(path),), cache=tmp_path))
    train, validation = texts(dataset)
    assert dataset.meta.held_out == [f"a.txt from byte {dataset.meta.train.bytes}"]
    assert train + validation == WORDS * 100 + "\n"
    assert train.endswith("\n")
    assert 0.08 < len(validation) / len(train + validation) < 0.12


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    characters = "".join(map(chr, range(0x10000, 0x10000 + 70_000)))
    path.write_text(characters + "\n" + characters[-10_000:], "utf-8")
    dataset = prepare(TextConfig(data=(str(path),), cache=tmp_path))
    assert dataset.train.dtype == np.uint32
    assert "".join(texts(dataset)) == characters + "\n" + characters[-10_000:] + "\n"


def test_it_is_built_once(config: TextConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    built = prepare(config)
    assert not built.reused
    monkeypatch.setattr("metronorm.data.text.build", None)  # calling it would fail
    found = prepare(config)
    assert found.reused
    assert found.directory == built.directory
    assert found.sha256 == built.sha256
    assert open_dataset(found.directory).meta == built.meta


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": "bpe", "vocab_size": 300},
        {"validation": 0.3},
        {"split_seed": 5},
    ],
)
def test_another_option_builds_anew(config: TextConfig, change: dict[str, object]) -> None:
    first = prepare(config)
    second = prepare(replace(config, **change))  # type: ignore[arg-type]
    assert not second.reused
    assert second.sha256 != first.sha256
    assert prepare(config).reused


def test_what_does_not_shape_the_tokens_does_not_build_anew(config: TextConfig) -> None:
    prepare(config)
    assert prepare(replace(config, vocab_size=999)).reused  # of characters it means nothing


def test_a_changed_document_builds_anew(config: TextConfig) -> None:
    first = prepare(config)
    path = Path(config.data[0], "03.txt")
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"clock", b"block"))  # as long as it was
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = prepare(config)
    assert not second.reused
    assert second.sha256 != first.sha256
    path.unlink()
    assert not prepare(config).reused


@pytest.mark.parametrize("damage", ["train.bin", "meta.json", "tokenizer.json"])
def test_a_damaged_folder_is_built_anew(config: TextConfig, damage: str) -> None:
    first = prepare(config)
    path = first.directory / damage
    if damage == "train.bin":
        path.write_bytes(path.read_bytes()[:-2])
    elif damage == "meta.json":
        path.write_bytes(b"{")
    else:
        path.unlink()
    with pytest.raises(DataError, match="complete"):
        open_dataset(first.directory)
    second = prepare(config)
    assert not second.reused
    assert second.sha256 == first.sha256


# One interpreter forks a build after the other; the n-th is killed at its n-th touch of a file.
KILLED = """
import os, signal, sys
from pathlib import Path
from metronorm.data.config import TextConfig
from metronorm.data.corpus import Span, find_documents
from metronorm.data.text import prepare

config = TextConfig(data=(sys.argv[1],), cache=Path(sys.argv[2]))

def forked(work):
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(process, 0)[1])

def build_and_die(moment):
    left = moment
    def hook(event, arguments):
        nonlocal left
        if event in ("open", "os.mkdir", "os.rename"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    prepare(config)

moment = 1
while forked(lambda: build_and_die(moment)) == signal.SIGKILL:
    folder = config.cache / "text"
    visible = [p for p in folder.glob("*") if not p.name.startswith(".")]
    if visible:
        assert prepare(config).reused, moment
        for path in visible[0].iterdir():
            path.unlink()
        visible[0].rmdir()
    moment += 1
assert prepare(config).reused
assert not list(config.cache.rglob("*.tmp"))
print(moment)
"""


def test_a_build_killed_at_any_moment_leaves_nothing_that_is_taken_for_finished(
    config: TextConfig,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, config.data[0], str(config.cache)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30  # it died in reading, in writing and around the rename


TWO = """
import sys
from pathlib import Path
from metronorm.data import text
from metronorm.data.config import TextConfig

def build(*arguments, real=text.build):
    meta = real(*arguments)
    print("built", flush=True)
    sys.stdin.readline()
    return meta

text.build = build
dataset = text.prepare(TextConfig(data=(sys.argv[1],), cache=Path(sys.argv[2])))
print(len(dataset.train), dataset.sha256)
"""


def test_two_processes_that_build_at_once_both_end_well(config: TextConfig) -> None:
    command = [sys.executable, "-c", TWO, config.data[0], str(config.cache)]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)
    ]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == "built\n"
    said = {process.communicate("\n") for process in both}
    assert {process.returncode for process in both} == {0}
    found = prepare(config)
    assert found.reused
    assert said == {(f"{len(found.train)} {found.sha256}\n", "")}
    assert not leftovers(config)


def test_a_full_disk_is_one_clear_error(config: TextConfig) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a write beyond it fails
    try:
        with pytest.raises(DataError, match=r"have room for the tokens; got .*--cache") as caught:
            prepare(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert not leftovers(config)
    assert not prepare(config).reused


def test_a_cache_that_cannot_be_written_is_one_clear_error(
    config: TextConfig, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(DataError, match="cache must be writable"):
        prepare(replace(config, cache=in_the_way))


def test_a_bad_document_leaves_nothing_behind(config: TextConfig) -> None:
    Path(config.data[0], "99.txt").write_bytes(b"fine so far\n\xff")
    with pytest.raises(DataError, match=r"offset 12 .*99\.txt \(line 2\)"):
        prepare(config)
    assert config.cache
    assert not list((config.cache / "text").iterdir())


def test_a_document_that_changes_meanwhile_is_noticed(
    config: TextConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build._characters

    def change_after(*arguments: object) -> str:
        found = real(*arguments)  # type: ignore[arg-type]
        Path(config.data[0], "00.txt").write_text(WORDS)
        return found

    monkeypatch.setattr(build, "_characters", change_after)
    with pytest.raises(DataError, match="change in the middle"):
        prepare(config)


def test_a_mark_without_text_is_not_text(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + b"x" * 50 * (name == "a.txt"))
    dataset = prepare(TextConfig(data=(str(tmp_path / "a.txt"),), cache=tmp_path))
    assert "\ufeff" not in "".join(texts(dataset))
    with pytest.raises(DataError, match="must hold text"):
        prepare(TextConfig(data=(str(tmp_path / "b.txt"),), cache=tmp_path))


def test_a_text_shorter_than_a_context_is_refused(config: TextConfig) -> None:
    dataset = prepare(config)
    shortest = dataset.meta.validation.tokens
    dataset.check_context(shortest - 1)
    with pytest.raises(DataError, match=f"validation text .*{shortest} \\+ 1"):
        dataset.check_context(shortest)


def test_a_large_corpus_is_sampled_evenly_for_bpe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_SAMPLE_BLOCK_BYTES", 1000)
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(f"é{i}" * 3000, "utf-8")
    corpus = find_documents([tmp_path])
    spans = [Span(document, 0, document.bytes) for document in corpus.documents]
    sample = list(build._sample(spans, 9000))
    assert sum(span.stop - span.start for span in sample) == pytest.approx(9000, rel=0.01)
    assert {span.document.name for span in sample} == {f"{i}.txt" for i in range(4)}
    pieces = [piece for piece in build._pieces(sample, "reading") if piece]  # no broken character
    assert set("".join(pieces)) == set("é0123")
    assert list(build._sample(spans, 10**6)) == spans


PEAK = """
import sys
from pathlib import Path
from metronorm.data.config import TextConfig
from metronorm.data.corpus import Span, find_documents
from metronorm.data.text import prepare

prepare(TextConfig(data=(sys.argv[1],), cache=Path(sys.argv[2])))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks_kib = []
    for mebibytes in (16, 96):
        path = tmp_path / f"{mebibytes}.txt"
        block = (WORDS * 20_000).encode()[: 1 << 20].rstrip(b"\xe2\x80")
        with open(path, "wb") as file:
            for _ in range(mebibytes):
                file.write(block)
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "cache")]
        peaks_kib.append(int(subprocess.check_output(command)))
        path.unlink()
    assert peaks_kib[1] - peaks_kib[0] < 16 << 10


def test_the_command_reports_what_it_did(
    config: TextConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(config.data[0])
    (folder / "picture.png").write_bytes(b"")
    others = sorted(str(path) for path in folder.glob("0*.txt"))
    assert main(["--data", *others, "--cache", str(tmp_path / "other")]) == 0
    assert "10 documents (10 .txt)" in capsys.readouterr().out
    arguments = ["--data", str(folder), "--cache", str(config.cache)]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main(arguments) == 0
    second = capsys.readouterr().out
    dataset = prepare(config)
    for said in (
        "12 documents (12 .txt); 1 file in the folders",
        f"{dataset.meta.train.tokens:,} tokens",
        dataset.meta.held_out[0],
        f"char, {dataset.tokenizer.vocab_size} tokens, 1.00 characters per token",
        f"built       {dataset.directory}",
    ):
        assert said in first
    assert second == first.replace("built ", "reused")
