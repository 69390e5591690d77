"""Who may go on with a run, from where, and with what."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metronorm.checkpoints.folder import checkpoint_paths, newest_checkpoint
from metronorm.clock import Clock
from metronorm.errors import CheckpointError, ConfigError, DataError, RunError
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.tasks.text import Config
from metronorm.train import train
from metronorm.train.config_changes import check_resumable, config_to_dict

from ..full_disk import fill, small_disk
from .acting import at_every_tick
from .stranger import small, task
from .tiny import losses, tiny_config, write_text

# Two trainings of a run at once, out of one process that has torch loaded. Who trains goes on until
# the other one has ended.
RACE = """
import os, signal, sys
from pathlib import Path

from metronorm.errors import RunError
from metronorm.tasks import text
from metronorm.train import train
from tests.train.acting import at_every_tick
from tests.train.tiny import tiny_config

def stop(tick):
    os.read(waiting, 1)
    os.kill(os.getpid(), signal.SIGTERM)

waiting, one_has_ended = os.pipe()
config = tiny_config(Path(sys.argv[1]), ticks=1_000_000)
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        try:
            with at_every_tick(stop):
                train(text.task, config, Path(sys.argv[1]) / "run", resume=True)
        except RunError as error:
            print(error, flush=True)
            os._exit(2)
        os._exit(0)
    children.append(child)
first, status = os.wait()
(other,) = set(children) - {first}
os.write(one_has_ended, b"x")
codes = [os.waitstatus_to_exitcode(each) for each in (status, os.waitpid(other, 0)[1])]
print(other, codes)
"""


def test_of_two_resumes_at_once_exactly_one_trains(tmp_path: Path) -> None:
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGTERM) if tick == 3 else None):
        train(text.task, tiny_config(tmp_path, ticks=1_000_000), tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", RACE, tmp_path],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    error, ended = done.stdout.splitlines()
    winner, _, codes = ended.partition(" ")
    assert f"which process {winner} on {os.uname().nodename} is writing" in error
    assert "try: wait until it ends or end it, then resume" in error
    assert codes == "[2, 0]"
    assert open_run(tmp_path / "run").attempts == [0, 1]


def test_a_run_that_is_written_is_left_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    with Clock(tmp_path / "run", resume=True, progress=False, stall=None):
        before = sorted((tmp_path / "run").rglob("*"))
        with pytest.raises(RunError, match="is writing"):
            train(text.task, config, tmp_path / "run", resume=True)
        assert sorted((tmp_path / "run").rglob("*")) == before
    train(text.task, config, tmp_path / "run", resume=True)


def test_what_is_refused_gives_the_run_back(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    (tmp_path / "text" / "0.txt").write_text("abc abc\n" * 100)
    shutil.rmtree(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(DataError, match="must have the data it was begun with"):
            train(text.task, config, tmp_path / "run", resume=True)
    assert open_run(tmp_path / "run").attempts == [0]


def killed_before_its_first_checkpoint(config: Config, run: Path) -> None:
    with at_every_tick(lambda tick: 1 / 0 if tick == 4 else None), pytest.raises(ZeroDivisionError):
        train(text.task, config, run)
    assert not checkpoint_paths(run / "checkpoints")


def test_without_a_checkpoint_a_run_begins_at_tick_0(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path)
    train(text.task, config, tmp_path / "whole")
    killed_before_its_first_checkpoint(config, tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        train(text.task, config, tmp_path / "run", resume=True)
    assert "has no checkpoint yet: it begins again at tick 0" in caplog.text
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_without_a_checkpoint_nothing_proves_that_another_text_is_the_same(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    killed_before_its_first_checkpoint(config, tmp_path / "run")
    (tmp_path / "other").symlink_to(tmp_path / "text")
    moved = replace(config, text=replace(config.text, data=(str(tmp_path / "other"),)))
    with pytest.raises(ConfigError, match=r"text\.data: .*/text'\] in the run, .*/other'\] asked"):
        train(text.task, moved, tmp_path / "run", resume=True)


def test_damaged_checkpoints_are_not_begun_over(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=5)
    train(text.task, config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "tick-00000005" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="only damaged ones: tick-00000005; try: put copies"):
        train(text.task, config, tmp_path / "run", resume=True)


def test_a_run_goes_on_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    train(text.task, config, tmp_path / "whole")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    relative = replace(config, text=replace(config.text, data=("text",)))
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGTERM) if tick == 7 else None):
        train(text.task, relative, Path("run"))
    assert open_run(tmp_path / "run").info.config["text"]["data"] == [str(tmp_path / "text")]
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(text.task, config, Path("../run"), resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_the_same_tokens_elsewhere_are_the_same_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    (tmp_path / "text").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"must find its text; got .*/text', which .* with --data"):
        train(text.task, config, tmp_path / "run", resume=True)
    moved = replace(config, text=replace(config.text, data=("moved",)))
    assert train(text.task, moved, tmp_path / "run", resume=True).tick == 2


def test_text_that_is_named_on_resume_is_read_although_the_cache_has_the_tokens(
    tmp_path: Path,
) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    other, nowhere = tmp_path / "other", tmp_path / "nowhere"
    write_text(other)
    (other / "more.txt").write_text("And one more that the run was not begun with. " * 20)
    for data, must in ((other, "the data it was begun with"), (nowhere, "every source must be")):
        named = replace(config, text=replace(config.text, data=(str(data),)))
        with pytest.raises(DataError, match=must):
            train(text.task, named, tmp_path / "run", resume=True)
    shutil.rmtree(tmp_path / "text")
    assert train(text.task, config, tmp_path / "run", resume=True).tick == 2


def test_paths_kept_as_they_were_typed_are_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions kept them."""
    write_text(tmp_path / "text")
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path)
    old = config_to_dict(config)
    old["text"]["data"] = ["text", "text/*.txt"]
    data = (str(tmp_path / "text"), str(tmp_path / "text/*.txt"))
    here = replace(config, text=replace(config.text, data=data))
    check_resumable(here, old)
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match=r"text\.data"):
        check_resumable(here, old)
    check_resumable(here, old, proven=True)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("ticks = = 3")])
def test_a_lost_config_is_that_of_the_newest_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    """After a branch `run.json` has another learning rate."""
    run, config = tmp_path / "run", small(ticks=6, keep=9)
    slower = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-4))
    train(task, config, run)
    train(task, replace(slower, ticks=8), run, resume=True, from_tick=5)
    kept = (run / "config.toml").read_bytes()
    damage(run / "config.toml")
    assert train(task, replace(slower, ticks=9), run, resume=True).tick == 9
    assert caplog.text.count(f"{run}/config.toml") == 1
    assert "; the config of the newest checkpoint is taken" in caplog.text
    assert (run / "config.toml").read_bytes() == kept.replace(b"ticks = 8", b"ticks = 9")


def test_a_damaged_config_without_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(task, small(ticks=2), run)
    shutil.rmtree(run / "checkpoints")
    (run / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"be TOML; got .*config.toml: .* try: remove .*run.json"):
        train(task, small(ticks=2), run, resume=True)
    (run / "config.toml").unlink()
    assert train(task, small(ticks=2), run, resume=True).tick == 2


def not_made(config: Any) -> Any:
    raise AssertionError("no data is loaded for a run that cannot be")


def test_a_file_in_place_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for resume, says in (
        (False, "a directory of its own; got .*/file, a file; try: another"),
        (True, "file, which has none"),
    ):
        with pytest.raises(RunError, match=says):
            train(not_made, small(), tmp_path / "file", resume=resume)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        train(task, small(ticks=2), disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for name, resume in (("run", True), ("new", False)):
            with pytest.raises(RunError, match=r"must be writable; got .*: Read-only file system"):
                train(task, small(ticks=2), disk / name, resume=resume)


def test_a_disk_that_is_full_when_the_config_is_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        train(task, small(ticks=2), disk / "run")
        before = (disk / "run" / "config.toml").read_bytes()

        def filling(config: Any) -> Any:
            return replace(task(config), save=lambda *_: {"ballast": str(fill(disk))})

        with pytest.raises(RunError, match=r"writable and have room; got .*: No space left"):
            train(filling, small(ticks=4), disk / "run", resume=True)
        with pytest.raises(RunError, match=r"must be writable; got .*: No space left"):
            train(task, small(ticks=4), disk / "new")
        assert (disk / "run" / "config.toml").read_bytes() == before
        (disk / "ballast").unlink()
        assert train(task, small(ticks=4), disk / "run", resume=True).saved == 4


def test_what_a_resume_changes_is_on_record(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    train(text.task, replace(config, evaluate_every=1), tmp_path / "run", resume=True)
    rows = open_run(tmp_path / "run").events().rows()
    (fields,) = [row["fields"] for row in rows if row["event"] == "resume"]
    assert json.loads(fields) == {
        "checkpoint": "tick-00000002",
        "changed": ["evaluate_every: 10 in the run, 1 asked for"],
    }


def test_another_number_of_threads_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        train(text.task, config, tmp_path / "run", resume=True)
        assert caplog.text == ""
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            train(text.task, config, tmp_path / "run", resume=True)
        finally:
            torch.set_num_threads(threads)
    assert f"not bit for bit as it would have: threads {threads}, now {threads + 1}" in caplog.text


def test_what_a_resume_cannot_change_is_not_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    monkeypatch.setattr("metronorm.tasks.text.memory.available_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="try: free memory on this machine, or start a new run"):
        train(text.task, config, tmp_path / "run", resume=True)
    with pytest.raises(MemoryError, match=r"try: a smaller --model\.width"):
        train(text.task, config, tmp_path / "new")


def test_a_checkpoint_of_an_attempt_that_went_further_does_not_count(tmp_path: Path) -> None:
    """Resumed from tick 10, the newest two are not those of 15 and 20, which are damaged."""
    config = tiny_config(tmp_path, ticks=30, keep=2)
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGTERM) if tick == 20 else None):
        train(text.task, replace(config, keep=9), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    for path in checkpoint_paths(folder)[-2:]:
        (path / "model.safetensors").write_bytes(b"")
    with (
        at_every_tick(lambda tick: 1 / 0 if tick == 14 else None),
        pytest.raises(ZeroDivisionError),
    ):
        train(text.task, replace(config, checkpoint_every=3), tmp_path / "run", resume=True)
    assert newest_checkpoint(folder).tick == 12
