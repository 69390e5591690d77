"""One record for each tick: nested loops, counting back, invalid numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.clock import Clock
from metronorm.errors import ConfigError

from . import records


def numbers(run: Path, attempt: int = 0) -> list[int]:
    return [tick["tick"] for tick in records.ticks(run, attempt)]


def test_a_loop_inside_a_loop_is_refused(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        inner = clock.ticks(range(2))
        for number in clock.ticks(range(4)):
            if number == 1:
                with pytest.raises(ConfigError, match="one tick runs at a time; got a loop"):
                    list(clock.ticks(range(2)))
                with pytest.raises(ConfigError, match="one tick runs at a time; got a loop"):
                    next(inner)
                with pytest.raises(ConfigError, match="one tick runs at a time; got a loop"):
                    clock.begin_tick()
                with pytest.raises(ConfigError, match="end_tick ends what begin_tick has begun"):
                    clock.end_tick()
        assert list(clock.ticks(range(2))) == [0, 1], "one after the other is fine"
    assert numbers(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_a_kept_iterator_goes_on_and_another_waits_for_its_close(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        loop = clock.ticks(range(10))
        for number in (0, 1):
            assert next(loop) == number
        with pytest.raises(ConfigError, match=r"try: .* close\(\) the iterator"):
            list(clock.ticks(range(2)))
        loop.close()  # type: ignore[attr-defined]
        list(clock.ticks(range(2)))
    assert numbers(tmp_path / "run") == [1, 2, 3, 4]


def test_a_tick_begins_once_and_ends_once(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "run", progress=False).open()
    with pytest.raises(ConfigError, match="got no tick that was begun"):
        clock.end_tick()
    for _ in range(2):
        clock.begin_tick()
        with pytest.raises(ConfigError, match="has not ended; try: end_tick"):
            clock.begin_tick()
        with pytest.raises(ConfigError, match="has not ended"):
            list(clock.ticks(range(1)))
        clock.end_tick()
        with pytest.raises(ConfigError, match="got no tick that was begun"):
            clock.end_tick()
    clock.close()
    assert numbers(tmp_path / "run") == [1, 2]


def set_tick(clock: Clock) -> None:
    clock.tick = 0


def count_on(clock: Clock) -> None:
    list(clock.ticks(range(2), initial=1))


@pytest.mark.parametrize("back", [set_tick, count_on])
def test_counting_back_needs_another_attempt(tmp_path: Path, back: Callable[[Clock], None]) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(2)))
        clock.tick = 2
        with pytest.raises(ConfigError, match=r"must not count back.*resume=True"):
            back(clock)
        for number in clock.ticks(range(2), initial=2):
            with pytest.raises(ConfigError, match="must not count back"):
                clock.tick = 2 + number
            clock.tick = 10 * clock.tick
    assert numbers(tmp_path / "run") == [1, 2, 30, 310]
    with Clock(tmp_path / "run", progress=False, resume=True) as clock:
        list(clock.ticks(range(2), initial=1))
    assert numbers(tmp_path / "run", attempt=1) == [2, 3]


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 10**30, 1.5, "5", None, float("inf")])
def test_a_tick_is_an_integer_of_64_bits(tmp_path: Path, value: Any) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        with pytest.raises(ConfigError, match="a tick must be an integer of 64 bits"):
            clock.tick = value
        if value is not None:
            with pytest.raises(ConfigError, match="a tick must be an integer of 64 bits"):
                list(clock.ticks(range(1), initial=value))
        list(clock.ticks(range(1)))
    assert numbers(tmp_path / "run") == [1]


@pytest.mark.parametrize("value", [2**63 - 2, -5, np.int64(7), np.uint8(7), torch.tensor(7)])
def test_ticks_count_from_any_integer(tmp_path: Path, value: Any) -> None:
    clock = Clock(tmp_path / "run", progress=False).open()
    clock.tick = value
    clock.begin_tick()
    clock.end_tick(beats=np.int64(3))  # type: ignore[arg-type]
    clock.close()
    (record,) = records.ticks(tmp_path / "run")
    assert (record["tick"], record["beats"]) == (int(value) + 1, 3)


@pytest.mark.parametrize("beats", [0, -1, 2**63, 1.5, None])
def test_beats_are_counted(tmp_path: Path, beats: Any) -> None:
    clock = Clock(tmp_path / "run", progress=False).open()
    clock.begin_tick()
    with pytest.raises(ConfigError, match="beats must be a positive integer"):
        clock.end_tick(beats=beats)
    clock.end_tick()
    clock.close()
    assert [record["beats"] for record in records.ticks(tmp_path / "run")] == [1]


class Batch:
    def __init__(self, beats: Any) -> None:
        self.beats = beats


def test_a_batch_with_invalid_beats_is_one_beat(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(map(Batch, [3, 0, -1, 2**63, 1.5, "2", None])))
    assert [record["beats"] for record in records.ticks(tmp_path / "run")] == [3, *[1] * 6]


def test_an_arrival_is_in_whole_nanoseconds(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            clock.arrive(waited_ns=0.5)  # type: ignore[arg-type]
    assert numbers(tmp_path / "run") == [1]


def test_a_watched_step_ends_where_the_loops_own_ticks_begin(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())
    with Clock(tmp_path / "run", progress=False) as clock:
        clock.watch(model, optimizer)

        def step() -> None:
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()

        step()
        clock.log(warm_up=1.0)
        for _ in clock.ticks(range(2)):
            step()
        step()
        with pytest.raises(ConfigError, match="has not ended"):
            clock.begin_tick()
    assert [record["metrics"] for record in records.ticks(tmp_path / "run")] == [
        {"warm_up": 1.0},
        {},
        {},
        {},
    ]
