"""Notes of people are kept beside the run, and nothing else of it is changed."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metronorm.board.notes import MOST_BYTES, Notes, change_notes, read_notes
from metronorm.errors import ConfigError, RunError


def test_notes_are_kept_and_changed_one_by_one(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == Notes()
    change_notes(tmp_path, {"starred": True, "tags": ["good", " good ", "", "old"]})
    found = change_notes(tmp_path, {"note": "<b>\n\u202e", "color": "#00ff7f"})
    assert found == Notes(True, False, ("good", "old"), "<b>\n\u202e", "#00ff7f")
    assert read_notes(tmp_path) == found
    assert [path.name for path in tmp_path.rglob("*")] == ["board", "notes.json"]
    change_notes(tmp_path, {"starred": False, "tags": [], "note": "", "color": ""})
    assert read_notes(tmp_path) == Notes()


@pytest.mark.parametrize(
    "changes",
    [
        None,
        [],
        {"starred": 1},
        {"tags": "good"},
        {"tags": [3]},
        {"tags": ["x" * 101]},
        {"tags": [str(number) for number in range(51)]},
        {"note": "x" * 20_001},
        {"color": "red"},
        {"color": "#00ff7f;"},
        {"path": "/etc/passwd"},
    ],
)
def test_wrong_notes_change_nothing(tmp_path: Path, changes: Any) -> None:
    before = change_notes(tmp_path, {"note": "mine"})
    with pytest.raises(ConfigError, match="a run's notes must have the right form"):
        change_notes(tmp_path, changes)
    assert read_notes(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b"\xff", b'{"note": 3}', b'{"newer": 1}', b"[" * 9999, b"{}" + b" " * MOST_BYTES],
    ids=lambda content: content[:12].decode(errors="replace"),
)
def test_damaged_notes_are_left_for_their_owner(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "board" / "notes.json"
    file.parent.mkdir()
    file.write_bytes(content)
    assert read_notes(tmp_path) == Notes()
    with pytest.raises(RunError, match="or they would be lost") as raised:
        change_notes(tmp_path, {"starred": True})
    assert raised.value.fix == "repair or remove the file"
    assert file.read_bytes() == content


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    changes = [{"starred": True}, {"hidden": True}, {"note": "a"}, {"tags": ["b"]}]
    changes.append({"color": "#102030"})
    with ThreadPoolExecutor(
        len(changes)
    ) as threads:  # as of one board; of two, the lock is the same
        for number in range(20):
            directory = tmp_path / str(number)
            directory.mkdir()
            list(threads.map(change_notes, [directory] * len(changes), changes))
            assert read_notes(directory) == Notes(True, True, ("b",), "a", "#102030")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "board").write_text("a file")
    with pytest.raises(RunError, match="must be"):
        change_notes(tmp_path, {"starred": True})
    assert (tmp_path / "board").read_text() == "a file"


def test_notes_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "board").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="notes are kept in the run's directory"):
        change_notes(tmp_path / "run", {"note": "mine"})
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_file_is_plain(tmp_path: Path) -> None:
    change_notes(tmp_path, {"tags": ["a"]})
    assert json.loads((tmp_path / "board" / "notes.json").read_text()) == {"tags": ["a"]}
