import errno
import hashlib
import json
import logging
import os
import random
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metronorm.data import build
from metronorm.data.bpe_tokenizer import BPETokenizer
from metronorm.data.config import TextConfig
from metronorm.data.dataset import TextDataset, open_dataset
from metronorm.data.text import prepare, remove_unused
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
def test_the_token_files_contain_complete_documents(config: TextConfig, kind: str) -> None:
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


def test_the_two_parts_of_one_document_are_the_whole_document(tmp_path: Path) -> None:
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
def test_another_option_builds_another_folder(
    config: TextConfig, change: dict[str, object]
) -> None:
    first = prepare(config)
    second = prepare(replace(config, **change))  # type: ignore[arg-type]
    assert not second.reused
    assert second.sha256 != first.sha256
    assert prepare(config).reused


def test_an_option_without_effect_on_the_tokens_builds_nothing(config: TextConfig) -> None:
    prepare(config)
    assert prepare(replace(config, vocab_size=999)).reused  # it has no effect on characters


def test_a_changed_document_is_built_again_in_the_same_folder(config: TextConfig) -> None:
    first = prepare(config)
    tokens = first.train[:50].copy()
    path = Path(config.data[0], "03.txt")
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"clock", b"block"))  # as long as it was
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = prepare(config)
    assert not second.reused
    assert second.sha256 != first.sha256
    path.unlink()
    assert not prepare(config).reused
    assert [one.name for one in first.directory.parent.iterdir()] == [first.directory.name]
    assert first.train[:50].tolist() == tokens.tolist()  # a reader can go on
    assert first.tokenizer.decode(first.validation)


def test_documents_that_are_only_touched_are_not_tokenized_again(
    config: TextConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(config)
    for path in Path(config.data[0]).iterdir():
        os.utime(path, ns=(1, 1))
    monkeypatch.setattr("metronorm.data.text.build", None)  # calling it would fail
    again = prepare(config)
    assert again.reused
    assert (again.directory, again.sha256) == (first.directory, first.sha256)
    assert open_dataset(first.directory).meta.fingerprint != first.meta.fingerprint
    monkeypatch.setattr("metronorm.data.text.digests_of", None)
    assert prepare(config).reused  # not even read


def test_a_renamed_document_is_another_text(config: TextConfig) -> None:
    prepare(config)
    Path(config.data[0], "03.txt").rename(Path(config.data[0], "x.txt"))
    assert not prepare(config).reused  # the split depends on names


def test_a_build_that_fails_leaves_what_was_there(config: TextConfig) -> None:
    first = prepare(config)
    bad = Path(config.data[0], "99.txt")
    bad.write_bytes(b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        prepare(config)
    bad.unlink()
    assert prepare(config).sha256 == first.sha256


def test_tokens_unused_for_thirty_days_are_removed(config: TextConfig) -> None:
    first, second = prepare(config), prepare(replace(config, split_seed=1))
    folder = first.directory.parent
    (folder / "mine").mkdir()
    (folder / "mine" / "meta.json").write_text("{}")
    built = (first.directory / "meta.json").stat().st_mtime
    for one in (folder / "mine", second.directory):
        os.utime(one / "meta.json", (0, 0))
    remove_unused(folder, now=built + 29 * 86_400)
    assert sorted(folder.iterdir()) == sorted([first.directory, folder / "mine"])
    os.utime(first.directory / "meta.json", (0, 0))
    assert prepare(config).reused  # this is a use
    remove_unused(folder, now=built + 29 * 86_400)
    assert first.directory.exists()


def test_a_resumed_run_finds_its_tokens_when_the_text_has_moved(config: TextConfig) -> None:
    first = prepare(config)
    moved = replace(config, data=("nowhere",))
    found = prepare(moved, sha256=first.sha256)
    assert (found.reused, found.sha256) == (True, first.sha256)
    assert np.array_equal(found.train, first.train)
    with pytest.raises(DataError, match="nothing"):
        prepare(moved, sha256="0" * 64)
    other = prepare(replace(config, validation=0.3), sha256="0" * 64)  # for the caller to compare
    assert other.sha256 != first.sha256


def test_tokens_of_an_older_version_are_found_by_a_resumed_run_only(config: TextConfig) -> None:
    first = prepare(config)
    old = first.directory.with_name("corpus-char-07290eaa69d49cd9")
    first.directory.rename(old)
    meta = json.loads((old / "meta.json").read_text())
    del meta["content"], meta["copies"]
    meta["format"] = 1
    (old / "meta.json").write_text(json.dumps(meta))
    os.utime(old / "meta.json", (0, 0))
    remove_unused(old.parent, now=300 * 86_400)
    assert prepare(config, sha256=first.sha256).directory == old
    assert not prepare(config).reused
    os.utime(old / "meta.json", (0, 0))
    remove_unused(old.parent, now=400 * 86_400)
    assert not old.exists()


def test_a_relative_cache_stays_the_same_if_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text(WORDS * 50)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    config = TextConfig(data=("a.txt",), cache=Path("cache"))
    first = prepare(config)
    assert first.directory.parent == tmp_path / "cache" / "text"
    relative = open_dataset(Path(os.path.relpath(first.directory)))
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = prepare(config)
    assert (again.reused, again.directory) == (True, first.directory)
    assert np.array_equal(relative.train, first.train)
    assert relative.directory.is_absolute()
    assert list(Path.cwd().iterdir()) == []


def test_warnings_are_logged_for_what_is_left_out(
    config: TextConfig, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(config.data[0])
    (folder / "picture.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "metronorm"):
        prepare(config)
        assert caplog.messages == []
        (folder / "copy.txt").write_bytes((folder / "03.txt").read_bytes().replace(b"\n", b"\r\n"))
        (folder / "broken.txt").symlink_to(folder / "nothing")
        (folder / "up").symlink_to(folder)
        for _ in range(2):
            prepare(config)
        left_out = "left out of the text: broken links: 1, copies of other documents: 1"
        assert caplog.messages == [left_out] * 2


def test_a_copy_with_other_line_ends_is_neither_in_training_nor_held_out(
    config: TextConfig,
) -> None:
    plain = prepare(config)
    folder = Path(config.data[0])
    for path in sorted(folder.iterdir()):
        text = path.read_bytes()
        path.with_name(f"x-{path.name}").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    doubled = prepare(config)
    assert doubled.meta.copies == 12
    assert doubled.sha256 == plain.sha256


def test_names_that_are_not_unicode_are_read(config: TextConfig) -> None:
    for number in range(20):
        name = os.fsencode(config.data[0]) + b"/caf\xe9 %d.txt" % number
        with open(name, "wb") as file:
            file.write(b"Text %d\n" % number + WORDS.encode() * 40)
    held = prepare(config).meta.held_out
    assert any("caf\\xe9" in name for name in held)


def documents_of_old(folder: Path) -> TextConfig:
    """Texts of many kinds, in several documents."""
    texts = {
        "prose.txt": "It was the best of times, it was the worst of times: we're told they'll say "
        "it's 1789.\n\n" * 400,
        "zh.md": "清晨的阳光照进窗户，孩子们在院子里玩耍。他说：“今天是2024年的第一天！”\n" * 300,
        "code.txt": "for i in range(10):\r\n"
        "\tprint(f'{i:>3}', end=\"\\n\")  # naïve 🎵🎶 e\u0301\r\n" * 300,
        "lines.txt": "=" * 72 + "\r" + "-" * 500 + "\n" + "漢" * 300 + "\0" + "a" * 900 + "\n",
    }
    folder.mkdir()
    for name, text in texts.items():
        for i in range(5):
            whole = f"{name} {i}\n" + "word " * 2000 + text + text[: 97 * i]
            (folder / f"{i}-{name}").write_bytes(whole.encode())
    return TextConfig(data=(str(folder),), vocab_size=500, cache=folder.parent / "cache")


@pytest.mark.parametrize(
    ("kind", "many", "one"),
    [
        (
            "char",
            "00081d6c100a0f226ceed2babc661b3b82073ae25cb79f7e3be558ce7e99b1ee",
            "838251fcc38b80ada8bd53e5ec2e648b0dff92a3301d606242d1d826a0414668",
        ),
        (
            "bpe",
            "b73b742792bcadc2b264f9d834c9463d2f69f0d1fcba43ce5f975b374a0c4bfb",
            "bb0cf3d8bfc74b74b3bc5a6de7207e4be8007766ac2f5cabac4039e8a9ea0b18",
        ),
    ],
)
def test_old_runs_find_the_tokens_they_had(tmp_path: Path, kind: str, many: str, one: str) -> None:
    """SHA-256 of tokens that the first version of the format gave (and tokenizers 0.23)."""
    config = replace(documents_of_old(tmp_path / "c"), tokenizer=kind)  # type: ignore[arg-type]
    assert prepare(config).sha256 == many
    single = tmp_path / "one.txt"
    single.write_text("".join(f"Line {i} of the only document.\n" for i in range(3000)))
    assert prepare(replace(config, data=(str(single),))).sha256 == one


@pytest.mark.parametrize("damage", ["train.bin", "meta.json", "tokenizer.json"])
def test_a_damaged_folder_is_built_again(config: TextConfig, damage: str) -> None:
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


def test_a_build_killed_at_any_moment_leaves_nothing_that_looks_finished(
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


def test_two_processes_that_build_at_once_both_succeed(config: TextConfig) -> None:
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


def test_a_document_that_changes_while_it_is_read_is_an_error(
    config: TextConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build._distinct_characters

    def change_after(*arguments: object) -> str:
        found = real(*arguments)  # type: ignore[arg-type]
        Path(config.data[0], "00.txt").write_text(WORDS)
        return found

    monkeypatch.setattr(build, "_distinct_characters", change_after)
    with pytest.raises(DataError, match=r"must stay as they are .*a change"):
        prepare(config)


def test_a_byte_order_mark_alone_is_no_text(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + b"x" * 50 * (name == "a.txt"))
    dataset = prepare(TextConfig(data=(str(tmp_path / "a.txt"),), cache=tmp_path))
    assert "\ufeff" not in "".join(texts(dataset))
    with pytest.raises(DataError, match="must contain enough text"):
        prepare(TextConfig(data=(str(tmp_path / "b.txt"),), cache=tmp_path))


def test_a_text_shorter_than_a_context_is_refused(config: TextConfig) -> None:
    dataset = prepare(config)
    shortest = dataset.meta.validation.tokens
    dataset.check_context(shortest - 1)
    with pytest.raises(DataError, match=f"validation text .*{shortest} \\+ 1"):
        dataset.check_context(shortest)


PEAK = """
import sys
from pathlib import Path
from metronorm.data import bpe_sample
from metronorm.data.config import TextConfig
from metronorm.data.text import prepare

bpe_sample._LEAST_DISTINCT_BYTES = 1 << 19
path, kind = sys.argv[1:]
cache = Path(path).with_suffix("")
prepare(TextConfig(data=(path,), cache=cache, tokenizer=kind, vocab_size=300))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def peak_kib(path: Path, kind: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", PEAK, str(path), kind]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks_kib = []
    for mebibytes in (16, 96):
        path = tmp_path / f"{mebibytes}.txt"
        block = (WORDS * 20_000).encode()[: 1 << 20].rstrip(b"\xe2\x80")
        with open(path, "wb") as file:
            for _ in range(mebibytes):
                file.write(block)
        peaks_kib.append(peak_kib(path, "char"))
        path.unlink()
    assert peaks_kib[1] - peaks_kib[0] < 16 << 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_text_without_spaces(tmp_path: Path) -> None:
    peaks_kib = []
    for megabytes in (3, 6):  # of a million characters three pieces are in memory at once
        path = tmp_path / f"{megabytes}.txt"
        path.write_text("".join(random.Random(0).choices("ACGT", k=megabytes * 10**6)))
        peaks_kib.append(peak_kib(path, "bpe"))
    assert peaks_kib[1] - peaks_kib[0] < 16 << 10
