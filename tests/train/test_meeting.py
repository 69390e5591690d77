"""A launch that cannot work ends in one line from one rank, and exit code 2 on all."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from .fault_task import options
from .forked_ranks import Launch, Ranks, same

if TYPE_CHECKING:
    from pathlib import Path


def refused(ranks: Ranks, arguments: list[list[str]], folder: Path, **how: Any) -> str:
    """The one line that the ranks say."""
    ended = ranks.run(Launch(arguments, str(folder / "said"), **how))
    lines = [line for said in ended.said for line in said.splitlines()]
    assert ended.codes == [2] * len(arguments), lines
    told = [line for line in lines if line.startswith("metronorm train: ")]
    (line,) = told
    assert not any("Traceback" in line for line in lines)
    return line


def of_train(folder: Path, **changes: str) -> list[str]:
    return ["train", *options(run=str(folder / "run"), **changes)]


def test_a_rank_that_does_not_come_is_named(ranks: Ranks, tmp_path: Path) -> None:
    arguments = same(of_train(tmp_path, rank_timeout="2"), 2)
    said = refused(ranks, arguments, tmp_path, environment={"WORLD_SIZE": "4"})
    assert "all 4 processes of a launch must come within --rank-timeout; got no rank 2, 3" in said


def test_a_port_that_another_program_has_is_named(ranks: Ranks, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = same(of_train(tmp_path, rank_timeout="1"), 1)
        # one of two ranks: the other one would talk to that program
        environment = {"WORLD_SIZE": "2", "MASTER_PORT": port}
        said = refused(ranks, arguments, tmp_path, environment=environment, store=False)
    assert f"MASTER_PORT must be free on 127.0.0.1; got {port}, which another program has" in said


def test_the_rank_with_other_options_is_named(ranks: Ranks, tmp_path: Path) -> None:
    usual, other = of_train(tmp_path), of_train(tmp_path, seed="7")
    said = refused(ranks, [usual, other, usual], tmp_path)
    assert (
        "all ranks must have the same code and options; got seed: 7 on rank 1, 0 on 2 of 3" in said
    )


RAISES = """
import os
from dataclasses import replace
from tests.train.fault_task import Config, task as whole

def task(config):
    found = whole(config)
    fail("task")
    return replace(found, model=lambda: fail("model") or found.model())

def fail(where):
    if where == {where!r} and os.environ["RANK"] == "1":
        raise ValueError("a disk is gone")
"""


@pytest.mark.parametrize("where", ["task", "model"])
def test_a_rank_that_fails_while_all_prepare_is_named(
    ranks: Ranks, tmp_path: Path, where: str
) -> None:
    recipe = tmp_path / "raises.py"
    recipe.write_text(RAISES.format(where=where))
    # far less than the limit of the test's own time: nobody waits until a process counts as lost
    arguments = same(of_train(tmp_path, recipe=str(recipe), rank_timeout="250"), 2)
    ended = ranks.run(Launch(arguments, str(tmp_path / "said")))
    assert sorted(ended.codes) == [1, 2]
    said = "".join(ended.said)
    assert said.count("metronorm train: rank 1: ValueError: a disk is gone") == 1
    assert said.count("Traceback") == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "x"}, "RANK must be a number; got '0' of 'x'"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "99999"}, "in MASTER_ADDR and MASTER_PORT; got"),
    ],
)
def test_variables_that_cannot_be(
    ranks: Ranks, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    arguments = same(of_train(tmp_path, rank_timeout="2"), 1)
    assert said in refused(ranks, arguments, tmp_path, environment=variables, store=False)


def test_a_device_that_is_not_there_is_said_once(ranks: Ranks, tmp_path: Path) -> None:
    arguments = same(of_train(tmp_path, device="mps"), 2)
    assert "device" in refused(ranks, arguments, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
def test_a_directory_that_is_not_shared_is_found_at_the_start(ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    arguments = same(of_train(tmp_path / "disk"), 2)
    said = refused(ranks, arguments, tmp_path, own_disk=str(tmp_path / "disk"))
    assert "all ranks must have the same directory of the run; got run: " in said
    assert "a directory that all machines share" in said


def test_ranks_without_a_beat_are_reported_and_train(ranks: Ranks, tmp_path: Path) -> None:
    arguments = same(of_train(tmp_path, micro_batches="1", ticks="2"), 3)
    ended = ranks.run(Launch(arguments, str(tmp_path / "said")))
    assert ended.codes == [0, 0, 0], ended.said
    assert "processes  3 (ddp, gloo); 2 have nothing to do, as a tick has 1 mi" in ended.said[0]
