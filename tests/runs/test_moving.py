from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.errors import RunError
from metronorm.runs import open_run
from metronorm.runs.moving import archive, delete, directories_of, restore


def record(run: Path) -> Path:
    with Clock(run, progress=False) as clock:
        for _ in clock.ticks(range(3)):
            clock.log(loss=1.0)
    return run


def test_an_archived_run_is_beside_the_others_in_a_hidden_folder_and_comes_back(
    tmp_path: Path,
) -> None:
    run = record(tmp_path / "one")
    (there,) = archive([run]).values()
    assert there == tmp_path / ".archive" / "one"
    assert not run.exists()
    assert len(open_run(there).ticks().rows()) == 3
    assert restore([there]) == {there: run}
    assert len(open_run(run).ticks().rows()) == 3


def test_all_are_moved_or_none(tmp_path: Path) -> None:
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    record(tmp_path / ".archive" / "two")
    with pytest.raises(RunError, match="the place of a run must be free"):
        archive([one, two])
    assert one.exists()
    with pytest.raises(RunError, match=r"is in a folder \.archive"):
        restore([tmp_path / ".archive" / "two", one])
    with pytest.raises(RunError, match="a run is archived once"):
        archive([tmp_path / ".archive" / "two"])
    assert two.exists()


def test_a_run_that_is_being_written_stays(tmp_path: Path) -> None:
    ended = record(tmp_path / "ended")
    with Clock(tmp_path / "running", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            clock.log(loss=1.0)
        for change in (archive, delete):
            with pytest.raises(RunError, match=r"must have ended; got .*running, which is running"):
                change([ended, tmp_path / "running"])
    assert ended.exists()
    delete([ended, tmp_path / "running"])
    assert list(tmp_path.iterdir()) == []


def test_only_runs_are_deleted_and_no_links(tmp_path: Path) -> None:
    run = record(tmp_path / "one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(RunError, match="folder, which has none"):
        directories_of([run, tmp_path / "folder"])
    assert directories_of([run, run]) == [run]
    with pytest.raises(RunError, match="a link; try: name the directory itself"):
        delete([tmp_path / "link"])
    assert run.exists()
