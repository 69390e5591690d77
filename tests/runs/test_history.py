"""Which ticks are of a run, and which were left behind by a resume or a branch."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.runs import Follower, Run, open_run, summarize
from metronorm.runs.history import Beginning, beginnings, left_behind

from ..store.tapes import write_event, write_ticks, write_training

SCORES = [0.5, 0.9, 0.7, 0.6]  # the second is the best


def effective(run: Run) -> list[tuple[int, int]]:
    return run.ticks().fetch("select attempt, tick from ticks order by tick")


def evaluated(run: Path) -> Path:
    """Four ticks with an accuracy; the second has the best one."""
    write_training(
        run, 0, ticks=4, metrics=lambda tick, _: {"validation_accuracy": SCORES[tick - 1]}
    )
    return run


def test_a_branch_without_a_tick_has_left_behind_what_follows_its_checkpoint(
    tmp_path: Path,
) -> None:
    run = evaluated(tmp_path / "run")
    assert summarize(open_run(run)).measures["validation_accuracy"].tick == 2
    follower = Follower(run)
    assert follower.read().tick == 4
    write_ticks(run, [], attempt=1)
    write_event(run, "branch", tick=1, attempt=1, checkpoint="tick-00000001", changed=[])
    assert effective(open_run(run)) == [(0, 1)]
    found = summarize(open_run(run))
    assert found.measures["validation_accuracy"].tick == 1
    assert found.measures["validation_accuracy"].best == SCORES[0]
    assert follower.read().tick == 1
    assert follower.read().latest["validation_accuracy"] == SCORES[0]


@pytest.mark.parametrize("name", ["branch", "resume"])
def test_an_attempt_begins_after_its_checkpoint(tmp_path: Path, name: str) -> None:
    run = evaluated(tmp_path / "run")
    write_training(run, 1, ticks=1, first=3, attempt=1)
    write_event(run, name, tick=2, attempt=1, checkpoint="tick-00000002", changed=[])
    assert effective(open_run(run)) == [(0, 1), (0, 2), (1, 3)]
    (left,) = open_run(run).left_behind()
    assert left == (0, 3, None, Beginning(1, 3, name == "branch"))
    write_event(run, name, tick=0, attempt=1, checkpoint=None, changed=[])
    assert effective(open_run(run)) == [(1, 3)], "it began at tick 0"


@pytest.mark.parametrize("fields", [{}, {"checkpoint": "best"}, {"checkpoint": 3}, {"path": "x"}])
def test_events_of_a_script_say_nothing_of_the_beginning(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    run = evaluated(tmp_path / "run")
    write_training(run, 1, ticks=2, first=4, attempt=1)
    write_event(run, "resume", attempt=1, **fields)
    assert effective(open_run(run)) == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.booleans()), max_size=5))
def test_every_tick_is_kept_or_left_behind_once(attempts: list[tuple[int, int, bool]]) -> None:
    """A tick belongs to the newest attempt that has it, or began before it."""
    begun = [Beginning(at, first, branch) for at, (first, _, branch) in enumerate(attempts)]
    left = left_behind(begun)
    for at, (first, length, _) in enumerate(attempts):
        for tick in range(first, first + length):
            by = [
                each.by
                for each in left
                if each.attempt == at
                and tick >= each.first
                and (each.end is None or tick < each.end)
            ]
            later = [each for each in begun[at + 1 :] if each.tick <= tick]
            assert by == later[:1], "by the first of them"


def test_attempts_in_any_order() -> None:
    assert beginnings([(2, 5), (0, 1)], []) == [Beginning(0, 1, False), Beginning(2, 5, False)]
