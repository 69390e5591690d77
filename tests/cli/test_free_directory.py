from pathlib import Path

import pytest

from metronorm.cli.free_directory import free_directory


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        ((), "shakespeare"),
        (("notes.txt",), "notes"),
        (("my notes",), "my-notes"),
        (("my notes/*.txt",), "my-notes"),
        (("letters/1/a.txt", "letters/2/b.txt"), "letters"),
        (("/a.txt", "/b.txt"), "text"),
        (("größe.txt",), "größe"),
    ],
)
def test_a_run_is_named_after_its_text(sources: tuple[str, ...], name: str, tmp_path: Path) -> None:
    assert free_directory(sources, tmp_path) == tmp_path / name


def test_runs_are_numbered(tmp_path: Path) -> None:
    for name in ("shakespeare", "shakespeare-2", "shakespeare-3"):
        assert free_directory((), tmp_path).name == name
        (tmp_path / name).mkdir()
