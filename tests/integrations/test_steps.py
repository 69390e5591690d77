import gc
import threading
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.errors import ConfigError, RunError
from metronorm.integrations.steps import Steps
from metronorm.runs import open_run

from ..clock.virtual import VirtualTime
from .runs import errors, events, numbers, phases


class Owner:
    """The owner of steps, as a callback is."""


REPORT = st.tuples(st.sampled_from([None, "evaluate", "checkpoint"]), st.integers(0, 10**9))
TICKS = st.lists(
    st.tuples(
        st.integers(0, 10**9),  # the wait
        st.integers(0, 10**9),  # the work
        st.lists(REPORT, max_size=4),  # reports after the work
        st.booleans(),  # whether the framework says that no report follows
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=8)
@given(TICKS)
def test_reports_belong_to_their_tick_and_the_wait_to_the_next(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[Any]
) -> None:
    directory = tmp_path_factory.mktemp("steps") / "run"
    time, owner = VirtualTime(), Owner()
    steps = Steps(owner, directory, now=time)
    expected = []
    for number, (wait, work, reports, final) in enumerate(ticks, 1):
        spent = {"data": wait, "step": work}
        time.pass_(wait)
        steps.begin()
        assert steps.clock.tick == number
        steps.phase("step")
        time.pass_(work)
        steps.end_work(beats=number)
        for name, ns in reports:
            time.pass_(ns)
            if name is None:
                steps.log({"loss": float(number)})
            else:
                steps.assign_elapsed(name)
            spent[name or "unattributed"] = spent.get(name or "unattributed", 0) + ns
        if final:
            steps.write()
        expected.append({name: ns for name, ns in spent.items() if ns})
    time.pass_(12345)  # of nothing
    steps.close()
    rows = open_run(directory).ticks().rows()
    assert [phases(row) for row in rows] == expected
    assert [row["wall_ns"] for row in rows] == [sum(spent.values()) for spent in expected]
    assert [row["beats"] for row in rows] == [row["tick"] for row in rows]


def test_a_phase_that_is_known_when_it_begins(tmp_path: Path) -> None:
    time, owner = VirtualTime(), Owner()
    steps = Steps(owner, tmp_path / "run", now=time)
    for _ in range(2):
        time.pass_(1)
        steps.begin()
        time.pass_(2)
        steps.end_work()
        steps.phase("checkpoint")
        time.pass_(4)
    steps.close()
    rows = open_run(tmp_path / "run").ticks().rows()
    assert phases(rows[0]) == {"data": 1, "unattributed": 2, "checkpoint": 5}, (
        "nothing reported when it began"
    )


def test_time_before_the_first_tick_is_in_no_tick(tmp_path: Path) -> None:
    time, owner = VirtualTime(), Owner()
    steps = Steps(owner, tmp_path / "run", now=time)
    time.pass_(100)
    steps.assign_elapsed("evaluate")
    steps.log({"eval_loss": 3.0})
    time.pass_(5)
    steps.begin()
    time.pass_(2)
    steps.end_work()
    steps.close()
    run = open_run(tmp_path / "run")
    assert [phases(row) for row in run.ticks().rows()] == [{"data": 5, "unattributed": 2}]
    assert events(run, "logged") == [(0, 0, {"values": {"eval_loss": 3.0}})]


def test_a_value_that_is_not_a_metric_becomes_an_event(tmp_path: Path) -> None:
    owner = Owner()
    steps = Steps(owner, tmp_path / "run")
    steps.begin()
    steps.end_work()
    steps.log({"loss": 1.0, "rank": 3, "Loss": 4.0, "name": "first", "self": 5, "list": [1, 2]})
    steps.close()
    run = open_run(tmp_path / "run")
    (row,) = run.ticks().rows()
    assert (row["loss"], row["rank_"], row["Loss_"], row["self"]) == (1.0, 3.0, 4.0, 5.0)
    others = {"name": "first", "list": [1, 2]}
    assert events(run, "logged") == [(0, 1, {"values": others})]


def test_numbers_of_every_kind_and_in_mappings_are_metrics(tmp_path: Path) -> None:
    owner = Owner()
    steps = Steps(owner, tmp_path / "run")
    steps.begin()
    steps.end_work()
    values = {"top": {"1": 0.5, "deep": {"x": Decimal("0.25")}, "note": "good"}, "e": {}}
    steps.log(values | {"fraction": Fraction(1, 8)})
    steps.close()
    run = open_run(tmp_path / "run")
    (row,) = run.ticks().rows()
    assert [row[name] for name in ("top/1", "top/deep/x", "fraction")] == [0.5, 0.25, 0.125]
    assert events(run, "logged") == [(0, 1, {"values": {"top/note": "good", "e": {}}})]


def test_the_first_value_of_an_earlier_step_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Owner()
    steps = Steps(owner, tmp_path / "run")
    for name in ("a", "b"):
        for step in (1, 2):
            steps.log_step(step, {name: {"x": 1.0}})
    steps.close()
    run = open_run(tmp_path / "run")
    assert [row["b/x"] for row in run.ticks().rows()] == [None, 1.0]
    assert events(run, "logged") == [(0, 2, {"values": {"step": 1, "b/x": 1.0}})]
    assert caplog.text.count("'b' of step 1 came after step 2") == 1


@pytest.mark.parametrize("step", [2**63, float("nan"), "last"])
def test_a_wrong_step_is_refused_and_nothing_is_lost(tmp_path: Path, step: Any) -> None:
    owner = Owner()
    steps = Steps(owner, tmp_path / "run")
    steps.log_step(1, {"a": 1.0})
    with pytest.raises(ConfigError, match="an integer of 64 bits"):
        steps.log_step(step, {"a": 2.0})
    steps.log_step(2, {"a": 3.0})
    steps.close()
    rows = open_run(tmp_path / "run").ticks().rows()
    assert [(row["tick"], row["a"]) for row in rows] == [(1, 1.0), (2, 3.0)]


def test_steps_that_are_only_logged(tmp_path: Path) -> None:
    time, owner = VirtualTime(), Owner()
    steps = Steps(owner, tmp_path / "run", now=time)
    for step, passed, values in [
        (1, 10, {"loss": 3.0}),
        (1, 5, {"accuracy": 0.5}),
        (4, 20, {"loss": 2.0}),
        (2, 7, {"late": 1.0}),
        (5, 1, {"loss": 1.0}),
    ]:
        time.pass_(passed)
        steps.log_step(step, values)
    steps.close()
    run = open_run(tmp_path / "run")
    names = ("tick", "wall_ns", "unattributed_ns", "loss", "accuracy")
    assert [tuple(row[name] for name in names) for row in run.ticks().rows()] == [
        (1, 15, 15, 3.0, 0.5),
        (4, 27, 27, 2.0, None),
        (5, 1, 1, 1.0, None),
    ]
    assert events(run, "logged") == [(0, 4, {"values": {"step": 2, "late": 1.0}})]


def test_an_error_inside_of_a_tick_keeps_the_ticks_before(tmp_path: Path) -> None:
    for name, finished in [("midst", False), ("between", True)]:
        owner = Owner()
        steps = Steps(owner, tmp_path / name)
        for _ in range(3):
            steps.begin()
            steps.end_work()
        if not finished:
            steps.begin()
        steps.close(KeyError("broken"))
        run = open_run(tmp_path / name)
        assert numbers(run) == [(0, 1), (0, 2), (0, 3)]
        assert errors(run) == ["KeyError"]


def test_the_run_is_closed_when_its_owner_is_collected(tmp_path: Path) -> None:
    owner = Owner()
    steps = Steps(owner, tmp_path / "run")
    steps.begin()
    steps.end_work()
    del owner
    gc.collect()
    run = open_run(tmp_path / "run")
    assert numbers(run) == [(0, 1)]
    assert errors(run) == ["RunError"]
    steps.close()  # does nothing more
    assert errors(run) == ["RunError"]


def test_a_training_that_was_left_is_closed_when_another_continues(tmp_path: Path) -> None:
    """As in a notebook, where an exception ended one and its callback is still there."""
    owners = [Owner(), Owner()]
    left = Steps(owners[0], tmp_path / "run")
    left.begin()
    left.end_work()
    with pytest.raises(RunError, match="needs a directory of its own"):
        Steps(Owner(), tmp_path / "run")
    left.begin()
    left.end_work()
    after = Steps(owners[1], tmp_path / "run", start=1)
    after.begin()
    after.end_work()
    after.close()
    run = open_run(tmp_path / "run")
    assert numbers(run) == [(0, 1), (1, 2)]
    assert len(run.ticks("full").rows()) == 3
    assert errors(run) == ["RunError", None]


def test_a_training_that_begins_again_counts_from_its_start(tmp_path: Path) -> None:
    for start in (0, 2):
        for again in (False, True):
            owner = Owner()
            options = {"resume": True, "again": True, "start": start} if again else {}
            steps = Steps(owner, tmp_path / f"{start}", **options)
            for _ in range(3):
                steps.begin()
                steps.end_work()
            steps.close()
    assert numbers(open_run(tmp_path / "0")) == [(1, 1), (1, 2), (1, 3)]
    assert numbers(open_run(tmp_path / "2")) == [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]


def test_the_count_continues_from_the_framework_or_the_run(tmp_path: Path) -> None:
    def train(ticks: int, **options: Any) -> None:
        owner = Owner()
        steps = Steps(owner, tmp_path / "run", **options)
        for _ in range(ticks):
            steps.begin()
            steps.end_work()
        steps.close()

    train(3)
    with pytest.raises(RunError, match="needs a directory of its own"):
        train(1)
    train(2, start=2)  # from a checkpoint after two ticks
    train(1, resume=True)
    assert numbers(open_run(tmp_path / "run")) == [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)]
    with pytest.raises(RunError, match="which does not exist"):
        Steps(Owner(), tmp_path / "other", resume=True)


def test_a_config_of_any_values_becomes_json(tmp_path: Path) -> None:
    owner = Owner()
    config = {"a": {1: (2, Path("b"))}, "set": {3}, "type": int, "n": None, "np": np.float64(0.5)}
    Steps(owner, tmp_path / "run", config=config).close()
    assert open_run(tmp_path / "run").info.config == {
        "a": {"1": [2, "b"]}, "set": [3], "type": "<class 'int'>", "n": None, "np": 0.5,
    }  # fmt: skip


def test_other_threads_read_the_true_time(tmp_path: Path) -> None:
    time, owner = VirtualTime(), Owner()
    steps = Steps(owner, tmp_path / "run", now=time)
    seen: list[int] = []
    with steps.time.held():
        time.pass_(10)
        thread = threading.Thread(target=lambda: seen.append(steps.time()))
        thread.start()
        thread.join()
        here = steps.time()
    steps.close()
    assert seen == [here + 10]
