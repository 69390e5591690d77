"""Two machines, as network namespaces, whose link is cut: each side names the other, and ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from metronorm.runs import open_run

from .fault_task import LINK, options
from .faults import OPTIONS, ROUNDING, Result, difference, result_of, train_on
from .forked_ranks import Launch, Ranks, same

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST, SECOND = "10.203.7.1", "10.203.7.2"


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two network namespaces with a link between them."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` to make network namespaces with")
    names = [f"metronorm-{os.getpid()}-{number}" for number in range(2)]
    steps = [f"netns add {name}" for name in names]
    steps.append(f"link add {LINK} netns {names[0]} type veth peer name {LINK} netns {names[1]}")
    for name, address in zip(names, (FIRST, SECOND), strict=True):
        steps += [f"-n {name} addr add {address}/24 dev {LINK}", f"-n {name} link set {LINK} up"]
        steps.append(f"-n {name} link set lo up")
    try:
        for step in steps:
            subprocess.run(["ip", *step.split()], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr}")
    else:
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_a_cut_link_ends_both_sides_and_each_names_the_other(
    machines: list[str], ranks: Ranks, judge: Result, tmp_path: Path
) -> None:
    fault = {"rank": 1, "tick": 7, "phase": "backward", "kind": "cut link"}
    fault["once"] = str(tmp_path / "cut")
    environment = {
        "FAULT": json.dumps(fault),
        "MASTER_ADDR": FIRST,
        "GLOO_SOCKET_IFNAME": LINK,
    }
    changes = {**OPTIONS, "optimizer.name": "ticks", "optimizer.clip": "0.0"}
    run = tmp_path / "run"
    words = options(run=str(run), parallel="fsdp", **{**changes, "rank_timeout": "3"})
    ended = ranks.run(
        Launch(
            same(["train", *words], 2),
            str(tmp_path / "said"),
            environment,
            store=False,
            networks=machines,
        )
    )
    begun = float((tmp_path / "cut-1").read_text())
    print([round(each - begun, 1) for each in ended.times])
    assert ended.codes == [2, 2], ended.said
    (first,), (second,) = (
        [line for line in said.splitlines() if line.startswith("metronorm train: ")]
        for said in ended.said
    )
    assert first.startswith("metronorm train: rank 1 on ")
    assert "is lost: rank 0 on " in first
    assert second.startswith(f"metronorm train: rank 0 on {FIRST} is lost: rank 1 on ")
    lost = [
        (row["rank"], json.loads(row["fields"])["lost_rank"])
        for row in open_run(run).events().rows()
        if row["event"] == "rank lost"
    ]
    assert sorted(lost) == [(0, 1), (1, 0)]
    again = train_on(ranks, tmp_path, 2, "ticks", "fsdp")
    assert again.codes == [0, 0], again.said
    assert difference(result_of(run), judge) <= ROUNDING
