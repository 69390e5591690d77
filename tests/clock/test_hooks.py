import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metronorm.clock.hooks import Watch
from metronorm.errors import ConfigError

from . import records
from .training import BACKWARD, DATA, FORWARD, TICK, UPDATE, Training


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "run")


def watch(training: Training) -> Watch:
    return Watch(training.clock, training.model, training.optimizer, training.loader)


def test_an_existing_loop_is_recorded(training: Training) -> None:
    with watch(training):
        for epoch in range(2):
            for x in training.loader:
                training.optimizer.zero_grad()
                loss = training.model(x).sum()
                training.time.pass_(100)  # as a loss outside of the model would
                loss.backward()
                training.optimizer.step()
                training.clock.log(epoch=epoch, number=training.clock.tick)
                training.time.pass_(1_000)
            training.time.pass_(10_000)
    found = training.ticks()
    assert [tick["tick"] for tick in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [tick["epoch"] for tick in found] == [0] * 4 + [1] * 4
    assert all(tick["number"] == tick["tick"] and tick["beats"] == 1 for tick in found)
    assert [tick["phases"] for tick in found] == [TICK | {"unattributed": 1_100}] * 8


def test_nothing_is_left_when_it_is_removed(training: Training) -> None:
    kind = type(training.loader)
    watched = watch(training)
    out = training.model(torch.ones(1, 2))
    watched.remove()
    watched.remove()
    assert type(training.loader) is kind
    assert not training.model._forward_hooks
    assert not training.model._forward_pre_hooks
    assert not training.model._forward_hooks_always_called
    assert not training.optimizer._optimizer_step_pre_hooks
    assert not training.optimizer._optimizer_step_post_hooks
    for _ in training.clock.ticks([0]):
        out.sum().backward()  # the hook in its graph is of no effect
        for x in training.loader:
            training.turn(x)
    assert training.phases() == [{"unattributed": BACKWARD + 4 * sum(TICK.values())}]


def test_removed_inside_a_backward_pass(training: Training) -> None:
    watched = watch(training)
    training.model.linear.weight.register_hook(lambda gradient: watched.remove())
    for x in training.loader:
        training.turn(x)
    assert training.clock.tick == 0, "a tick without a step is none"
    for _ in training.clock.ticks([0]):
        training.time.pass_(7)
    assert training.phases() == [{"unattributed": 7}]


def test_micro_batches_are_beats_and_remaining_ones_belong_to_the_next_tick(tmp_path: Path) -> None:
    training = Training(tmp_path / "run", batches=5)
    with watch(training):
        count = 0
        for _ in range(2):
            for x in training.loader:
                training.beat(x)
                count += 1
                if count % 3 == 0:
                    training.optimizer.step()
            assert training.clock.tick == count // 3, "of ticks that are done"
    found = training.ticks()
    assert [tick["tick"] for tick in found] == [1, 2, 3]
    assert [tick["beats"] for tick in found] == [3, 3, 3]
    three = {name: 3 * ns for name, ns in TICK.items()} | {"update": UPDATE}
    assert [tick["phases"] for tick in found] == [three] * 3
    assert training.clock.tick == 3


def test_evaluation_after_a_step_belongs_to_the_tick_of_that_step(training: Training) -> None:
    def evaluate() -> None:
        training.model.eval()
        with torch.no_grad():
            training.model(torch.ones(1, 2))
        training.model.train()

    with watch(training):
        for x in training.loader:
            training.turn(x)
            if training.clock.tick == 2:
                evaluate()
        for _ in range(2):  # between two loops: of the tick before, as in clock.ticks
            evaluate()
            training.clock.log(val_loss=1.0)
        for x in training.loader:
            training.turn(x)
        evaluate()
        training.clock.log(val_loss=2.0)
    found = training.phases()
    evaluated = [tick.get("evaluate", 0) for tick in found]
    assert evaluated == [0, FORWARD, 0, 2 * FORWARD, 0, 0, 0, FORWARD]
    assert all(tick | TICK == tick for tick in found)
    val_losses = [tick["metrics"].get("val_loss") for tick in records.ticks(training.run)]
    assert val_losses == [None, None, None, 1.0, None, None, None, 2.0]


def test_without_a_loader_a_tick_ends_where_the_next_forward_pass_begins(
    training: Training,
) -> None:
    with Watch(training.clock, training.model, training.optimizer):
        training.time.pass_(10_000)
        for number in range(3):
            training.turn(torch.ones(1, 2))
            training.clock.log(number=number)
            training.time.pass_(7)
    found = training.ticks()
    assert [tick["number"] for tick in found] == [0, 1, 2]
    expected = {name: ns for name, ns in TICK.items() if name != "data"} | {"unattributed": 7}
    assert [tick["phases"] for tick in found] == [expected] * 3


def test_an_optimizer_alone(training: Training) -> None:
    with Watch(training.clock, optimizer=training.optimizer):
        for number in range(3):
            training.turn(torch.ones(1, 2))
            training.clock.log(number=number)
    found = training.ticks()
    assert [tick["number"] for tick in found] == [0, 1, 2]
    assert [tick["phases"] for tick in found] == [
        {"update": UPDATE, "unattributed": FORWARD + BACKWARD},
        {"update": UPDATE, "unattributed": FORWARD + BACKWARD},
        {"update": UPDATE},
    ]


def test_a_loader_and_an_optimizer_without_the_model(training: Training) -> None:
    with Watch(training.clock, None, training.optimizer, training.loader):
        for number, x in enumerate(training.loader):
            training.beat(x)
            if number % 2:
                training.optimizer.step()
    expected = {"data": 2 * DATA, "update": UPDATE, "unattributed": 2 * (FORWARD + BACKWARD)}
    assert [(tick["beats"], tick["phases"]) for tick in training.ticks()] == [(2, expected)] * 2


BODIES = st.lists(st.sampled_from(["beat", "step", "evaluate", "wait", "break"]), max_size=5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(BODIES, min_size=3, max_size=3), max_size=3))
def test_a_tick_is_a_step_and_its_beats_whatever_the_loop(
    tmp_path_factory: pytest.TempPathFactory, epochs: list[list[list[str]]]
) -> None:
    training = Training(tmp_path_factory.mktemp("hooks") / "run", batches=3)
    x = torch.ones(1, 2)
    expected, beats, begun = [], 0, training.time()

    def evaluate() -> None:
        with torch.no_grad():
            training.model(x)

    acts = {
        "beat": lambda: training.beat(x),
        "step": training.optimizer.step,
        "evaluate": evaluate,
        "wait": lambda: training.time.pass_(1_000),
    }
    with watch(training):
        for bodies in epochs:
            for _, body in zip(training.loader, bodies, strict=False):
                for act in body:
                    if act == "break":
                        break
                    acts[act]()
                    beats += act == "beat"
                    if act == "step":
                        expected.append(max(beats, 1))
                        beats = 0
                if "break" in body:
                    break
    found = training.ticks()
    assert [tick["beats"] for tick in found] == expected
    assert [tick["tick"] for tick in found] == list(range(1, len(expected) + 1))
    assert training.clock.tick == len(expected)
    assert [tick["phases"].get("update") for tick in found] == [UPDATE] * len(expected)
    assert sum(tick["wall"] for tick in found) <= training.time() - begun


# --- together with others -------------------------------------------------------------------------


def test_inside_ticks_it_finds_phases_only(training: Training) -> None:
    with watch(training):
        for x in training.clock.ticks(training.loader, initial=6):
            training.turn(x)
            training.turn(x)
        for x in training.loader:
            training.turn(x)
    found = training.ticks()
    assert [tick["tick"] for tick in found] == [7, 8, 9, 10, 11, 12, 13, 14]
    two = {name: 2 * ns for name, ns in TICK.items()} | {"data": DATA}
    assert [tick["phases"] for tick in found] == [two] * 4 + [TICK] * 4


def test_without_an_optimizer_it_finds_phases_only(training: Training) -> None:
    with Watch(training.clock, training.model, loader=training.loader):
        for x in training.clock.ticks(training.loader):
            training.turn(x)
    expected = TICK | {"unattributed": UPDATE}
    del expected["update"]
    assert training.phases() == [expected] * 4


def test_other_threads_are_not_watched(training: Training) -> None:
    def elsewhere() -> None:
        for x in training.loader:
            training.model(x)
        training.optimizer.step()

    with watch(training):
        for x in training.loader:
            training.turn(x)
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
    elsewhere_ns = 4 * (DATA + FORWARD) + UPDATE
    assert training.phases() == [TICK | {"unattributed": elsewhere_ns}] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": torch.relu}, "must be a torch.nn.Module, and not scripted; got an object of"),
        ({"model": torch.jit.script(nn.Linear(1, 1))}, "RecursiveScriptModule"),
        ({"optimizer": nn.Linear(1, 1)}, "must be a torch.optim.Optimizer; got an object of type"),
        ({"loader": [1, 2]}, "of type list; try: .*watch.data"),
        ({"loader": (x for x in "ab")}, "generator"),
        ({"loader": object()}, "type object"),
    ],
    ids=lambda argument: "",
)
def test_arguments_that_cannot_be_watched(
    training: Training, arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"model": training.model, "optimizer": training.optimizer}
    with pytest.raises(ConfigError, match=message):
        Watch(training.clock, **given | arguments)
    assert not training.model._forward_hooks
    assert not training.optimizer._optimizer_step_pre_hooks
    training.clock.close()
