import glob
import os
from collections import Counter
from pathlib import Path

import pytest

from metronorm.data.sources import (
    BROKEN,
    LINKED,
    NO_TEXT,
    SPECIAL,
    _matches,
    absolute,
    find_files,
)
from metronorm.errors import ConfigError, DataError


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def found_below(folder: Path, matches: set[Path]) -> list[str]:
    return [match.relative_to(folder).as_posix() for match in matches if match.is_file()]


def found(folder: Path, source: str, left_out: Counter[str] | None = None) -> list[str]:
    """What the source gives, below `folder`, sorted."""
    files = find_files(source, Counter() if left_out is None else left_out)
    return sorted(file.relative_to(folder).as_posix() for file in files)


@pytest.mark.parametrize(
    "pattern",
    [
        "*.txt",
        "*/*.txt",
        "**/*.txt",
        "**",
        "a/**",
        "**/**/*.txt",
        "a/**/d/*",
        "**/d/*.txt",
        "[ab]/?.txt",
        "[!a]/*.txt",
        "a/.*",
        "*/../b/*.txt",
        "./a/*.txt",
        "**/.h/*",
        "a.txt/*",
    ],
)
def test_globs_match_the_same_files_as_globs_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    names = ["a.txt", "a/1.txt", "a/2.log", "a/.h/3.txt", "a/.hidden.txt"]
    write(tmp_path, *names, "b/4.txt", "a/d/5.txt", "a/e/d/6.txt", ".c/7.txt", "b/x[1].txt")
    monkeypatch.chdir(tmp_path)
    expected = sorted(
        {
            os.path.normpath(match)
            for match in glob.glob(pattern, recursive=True)  # noqa: PTH207
            if Path(match).is_file()
        }
    )
    matches = {match.resolve() for match in _matches(Path(absolute(pattern)), Counter())}
    assert sorted(found_below(tmp_path, matches)) == expected
    if not expected:
        with pytest.raises(DataError, match="which matches nothing"):
            find_files(pattern, Counter())


def test_links_in_a_circle_are_not_followed_forever(tmp_path: Path) -> None:
    write(tmp_path, "x.txt", "deep/er/y.txt")
    for name in ("one", "two", "deep/up"):
        (tmp_path / name).symlink_to(tmp_path)
    for source in ("**/*.txt", "**", ""):
        left_out: Counter[str] = Counter()
        files = {tmp_path / name for name in found(tmp_path, str(tmp_path / source), left_out)}
        there = {file.resolve().relative_to(tmp_path).as_posix() for file in files}
        assert there == {"deep/er/y.txt", "x.txt"}
        assert not +left_out  # what they lead to is read
    assert found(tmp_path, f"{tmp_path}/on*/x.txt") == ["one/x.txt"]  # a link that is named


def test_a_path_that_exists_is_not_read_as_a_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a[1]/1.txt", "a1/2.txt", "x[1].txt", "x1.txt", "b/c*d/3.txt", "b/c-d/4.txt")
    monkeypatch.chdir(tmp_path)
    assert found(tmp_path, "a[1]") == ["a[1]/1.txt"]
    assert found(tmp_path, "a[1]/*.txt") == ["a[1]/1.txt"]
    assert found(tmp_path, "x[1].txt") == ["x[1].txt"]
    assert found(tmp_path, "*/c*d/*.txt") == ["b/c*d/3.txt"]
    assert found(tmp_path, "x[12].txt") == ["x1.txt"]


def test_a_source_means_the_same_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a[1]/x.txt", "a1/y.txt")
    monkeypatch.chdir(tmp_path / "a[1]")
    sources = {source: absolute(source) for source in ("*.txt", "x.txt", ".")}
    assert sources["x.txt"] == str(tmp_path / "a[1]/x.txt")
    assert {source: absolute(whole) for source, whole in sources.items()} == sources
    monkeypatch.chdir(tmp_path / "a1")
    for whole in sources.values():
        assert found(tmp_path, whole) == ["a[1]/x.txt"]
    (tmp_path / "a[1]").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="nothing"):  # and not what a1 holds
        find_files(sources["*.txt"], Counter())


def test_the_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/x") == str(tmp_path / "x")
    assert absolute("~nobody-here/x") == str(Path.cwd() / "~nobody-here/x")


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ConfigError, match="must not be empty"):
        find_files("", Counter())


def test_a_path_that_a_record_cannot_store_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"UTF-8; got 'caf\\udce9'"):
        absolute(os.fsdecode(b"caf\xe9"))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.py", "c.bin", ".hidden", "other/d.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle.txt").symlink_to(tmp_path / "circle.txt")
    (tmp_path / "folder").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "pipe.txt")
    left_out: Counter[str] = Counter()
    (tmp_path / "other" / "back").symlink_to(tmp_path.parent)
    assert found(tmp_path, str(tmp_path), left_out) == ["a.txt", "other/d.txt"]
    assert left_out == {NO_TEXT: 2, BROKEN: 2, LINKED: 1, SPECIAL: 1}
    left_out.clear()
    assert found(tmp_path, f"{tmp_path}/*.txt", left_out) == ["a.txt"]
    assert left_out == {BROKEN: 2, SPECIAL: 1}


@pytest.mark.parametrize("name", ["pipe", "broken"])
def test_a_source_that_is_a_pipe_or_a_broken_link_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    advice = {"pipe": "write its content", "broken": "name the text itself, or correct the link"}
    with pytest.raises(DataError, match=f"regular file.*{advice[name]}"):
        find_files(tmp_path / name, Counter())
