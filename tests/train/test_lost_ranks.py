"""A rank that is harmed ends the training of all, and the last line on screen names it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from metronorm.runs import open_run
from metronorm.train.lost_ranks import is_of_others

from .fault_task import options
from .forked_ranks import Ended, Launch, Ranks, same

if TYPE_CHECKING:
    from pathlib import Path


def harm(ranks: Ranks, folder: Path, processes: int, fault: dict[str, Any], *more: str) -> Ended:
    """Train on several processes, of which one comes to harm."""
    fault = {"once": str(folder / "harmed"), **fault}
    arguments = ["train", "--run", str(folder / "run"), *options(), *more]
    launch = Launch(same(arguments, processes), str(folder / "said"), {"FAULT": json.dumps(fault)})
    ended = ranks.run(launch)
    assert (folder / f"harmed-{fault['rank']}").exists(), ended.said
    return ended


def lost(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """Which ranks have on record that one is lost, and what of it."""
    rows = open_run(run).events().rows()
    return [(row["rank"], json.loads(row["fields"])) for row in rows if row["event"] == "rank lost"]


CASES: dict[str, tuple[dict[str, Any], int, str]] = {
    "killed": (
        {"kind": "SIGKILL", "rank": 1, "tick": 3, "phase": "backward"},
        -9,
        " waited for it in tick 3, backward; it was last heard of in ",
    ),
    "raises": (
        {"kind": "raise", "rank": 0, "tick": 3, "phase": "update"},
        1,
        ", tick 3, update: ValueError: the rank is harmed",
    ),
    "has no memory": (
        {"kind": "memory", "rank": 1, "tick": 3, "phase": "forward"},
        2,
        ", tick 3, forward: a training must fit into memory; got no room for 12 GiB; try: ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_others_end_and_one_of_them_names_the_rank_that_was_harmed(
    case: str, ranks: Ranks, tmp_path: Path
) -> None:
    fault, code, message = CASES[case]
    ended = harm(ranks, tmp_path, 3, fault)
    harmed = fault["rank"]
    others = [rank for rank in range(3) if rank != harmed]
    assert ended.codes[harmed] == code
    assert [ended.codes[rank] for rank in others] == [2, 2], ended.said
    lines = [
        line
        for said in ended.said
        for line in said.splitlines()
        if line.startswith("metronorm train: ")
    ]
    (line,) = lines
    assert line.startswith(f"metronorm train: rank {harmed} on ")
    assert message in line
    recorded = lost(tmp_path / "run")
    assert sorted(rank for rank, _ in recorded) == others
    assert {event["lost_rank"] for _, event in recorded} == {harmed}


@pytest.mark.parametrize(
    "message",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer",
        "Application timeout caused pair closure",  # in a backward pass with several buckets
    ],
)
def test_an_error_of_a_collective_is_no_fault_of_the_rank(message: str) -> None:
    assert is_of_others(RuntimeError(message))


def test_a_rank_that_waits_in_another_place_is_named(ranks: Ranks, tmp_path: Path) -> None:
    """A hook calls a sharded model on one rank only: that one waits for the others for ever."""
    arguments = ["train", "--run", str(tmp_path / "run"), *options(kind="hook on one rank")]
    more = ["--parallel", "fsdp", "--rank-timeout", "2"]
    ended = ranks.run(Launch(same([*arguments, *more], 2), str(tmp_path / "said")))
    assert ended.codes == [2, 2], ended.said
    (line,) = [
        line
        for said in ended.said
        for line in said.splitlines()
        if line.startswith("metronorm train: ")
    ]
    assert "got rank 0 in tick 2, sample; rank 1 in tick 2, after sample; try: a hook" in line
    assert not lost(tmp_path / "run")


def test_a_rank_that_is_terminated_before_the_first_tick_is_not_lost(
    ranks: Ranks, tmp_path: Path
) -> None:
    fault = {"rank": 1, "tick": 0, "phase": "prepare", "kind": "SIGTERM"}
    ended = harm(ranks, tmp_path, 2, fault)
    assert ended.codes == [2, 128 + 15], ended.said
    assert ended.said[0].startswith("metronorm train: rank 1 on ")
    assert ended.said[0].endswith(", prepare: stopped by SIGTERM before the first tick\n")
    assert ended.said[1] == ""
