"""Ranks that are harmed do not change a training: the judge is the undisturbed run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .faults import Fault, Result, suffer

if TYPE_CHECKING:
    from pathlib import Path

    from .forked_ranks import Ranks


FAULTS = [
    Fault("SIGKILL", 1, 7, "communicate", "fsdp", 2, 3, "ticks"),
    Fault("SIGTERM", 1, 9, "checkpoint", "ddp", 2, 1, "ticks"),
    Fault("full disk", 1, 9, "checkpoint", "fsdp", 2, 2, "ticks"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_a_harmed_rank_does_not_change_the_training(
    fault: Fault, ranks: Ranks, judge: Result, tmp_path: Path
) -> None:
    suffer(ranks, tmp_path / "harmed", fault, judge)


@pytest.mark.parametrize("bug", ["a beat done twice", "a stale shard"])
def test_the_judge_sees_a_bug(bug: str, ranks: Ranks, judge: Result, tmp_path: Path) -> None:
    fault = Fault("SIGKILL", 1, 10, "backward", "fsdp", 2, 2, "ticks")
    with pytest.raises(AssertionError, match="not the undisturbed run"):
        suffer(ranks, tmp_path / "harmed", fault, judge, bug)
