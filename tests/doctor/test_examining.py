"""A report of this installation, and of broken ones."""

import json
import sys
from pathlib import Path

import pytest

import metronorm
from metronorm.doctor import Problem, Report, examine
from metronorm.doctor.report import NotRead, read
from metronorm.norm import backend


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch cannot be imported, and a report takes no time for it."""
    modules: dict[str, object] = {"torch": None}
    monkeypatch.setattr(sys, "modules", {**sys.modules, **modules})


def test_this_installation_is_whole() -> None:
    report = examine()
    assert not report.is_broken
    assert report.sections["software"]["metronorm"].startswith(f"{metronorm.__version__}, ")
    assert report.sections["torch"]["norm_backend"] == backend()
    assert "devices" in report.sections["torch"], "the last line of the other process"
    assert json.loads(json.dumps(report.as_dict()))["broken"] is False


def installed(name: str, version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package's metadata before the real one's."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("no_torch")
def test_what_every_command_needs_is_broken_if_it_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("duckdb", "0.9", tmp_path, monkeypatch)
    report = examine()
    assert report.is_broken
    assert report.problems[0] == Problem(
        "every command needs duckdb>=1.2; got 0.9", "pip install 'duckdb>=1.2'", is_broken=True
    )


@pytest.mark.usefixtures("no_torch")
def test_an_optional_package_that_is_too_old_is_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("uvicorn", "0.1", tmp_path, monkeypatch)
    report = examine()
    assert not report.is_broken
    assert "metronorm board: uvicorn must be >=0.30; got 0.1" in [
        each.what for each in report.problems
    ]
    assert "uvicorn 0.1 (needs >=0.30); needed for metronorm board" in report.text()


@pytest.mark.usefixtures("no_torch")
def test_torch_is_not_needed() -> None:
    report = examine()
    assert report.sections["torch"] == {"version": None}
    assert not report.is_broken


@pytest.mark.usefixtures("no_torch")
def test_without_any_metadata_there_is_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(Path(metronorm.__file__).parents[1])
    library = [each for each in sys.path if "site-packages" not in each and each != source]
    monkeypatch.setattr(sys, "path", library)
    report = examine()
    assert "metronorm must be installed as a package" in report.problems[0].what
    assert isinstance(report.sections["extras"]["board"], NotRead)


@pytest.mark.usefixtures("no_torch")
def test_in_a_folder_that_is_gone_there_is_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "disk              could not be read: FileNotFoundError" in examine().text()


def test_a_probe_that_fails_says_so() -> None:
    assert read(int, "3") == 3
    value = read(int, "x\x1b[2J")
    report = Report({"a": {"the_size_bytes": value, "b_bytes": 2048, "c": [], "d": True}}, ())
    assert report.text() == (
        "a\n"
        "  the size        could not be read: ValueError: invalid literal for int() with base 10: "
        "'x\\x1b[2J'\n"
        "  b               2 KiB\n"
        "  c               none\n"
        "  d               yes\n"
        "\n"
        "no problems"
    )
    assert report.as_dict()["a"]["the_size_bytes"] == {"not_read": str(value)}
