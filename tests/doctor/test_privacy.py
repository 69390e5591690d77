"""A report names neither the user nor the machine."""

import platform
from pathlib import Path

import pytest

from metronorm.doctor.privacy import without_names


@pytest.fixture(autouse=True)
def ann(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ann")
    monkeypatch.setenv("HOME", "/people/ann")
    monkeypatch.setattr(platform, "node", lambda: "gpu7.example.org")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/people/ann/runs", "~/runs"),
        ("/people/ann", "~"),
        ("cannot open '/people/ann/a': none", "cannot open '~/a': none"),
        ("/people/anna/runs", "/people/anna/runs"),
        ("/people/ann-2/runs", "/people/ann-2/runs"),
        ("/backup/people/ann", "/backup/people/USER"),
        ("/scratch/ann/runs", "/scratch/USER/runs"),
        ("c++, /usr/bin/c++", "c++, /usr/bin/c++"),
        ("no route to gpu7.example.org", "no route to HOST"),
        ("gpu7: no such disk", "HOST: no such disk"),
        ("gpu70", "gpu70"),
    ],
)
def test_names_are_replaced_where_they_are_whole(text: str, shown: str) -> None:
    assert without_names(text) == shown


def test_in_every_text_of_a_value() -> None:
    value = {"a": ["/people/ann/x", 3, None], "b": {"c": "/people/ann"}}
    assert without_names(value) == {"a": ["~/x", 3, None], "b": {"c": "~"}}


def test_a_home_folder_behind_a_link_has_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to("disk")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert without_names(f"{tmp_path / 'home'}/a {tmp_path / 'disk'}/b") == "~/a ~/b"


def test_a_home_folder_at_the_top_leaves_all_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert without_names("/usr/bin") == "/usr/bin"
