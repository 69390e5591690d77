import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metronorm.data.sampler import WindowSampler, validation_windows
from metronorm.errors import ConfigError, DataError

quick = settings(deadline=None, max_examples=100)


def counting(size: int) -> NDArray[np.uint16]:
    """Tokens that tell where they stand."""
    return np.arange(size, dtype=np.uint16)


@quick
@given(
    size=st.integers(2, 400),
    context=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 4),
    seed=st.integers(-(2**70), 2**70),
)
def test_an_epoch_visits_windows_that_do_not_overlap_each_once(
    size: int, context: int, batch_size: int, world: int, seed: int
) -> None:
    if size <= context:
        return
    tokens = counting(size)
    ranks = [
        WindowSampler(tokens, context, batch_size, seed=seed, rank=rank, world=world)
        for rank in range(world)
    ]
    windows = ranks[0].windows_per_epoch
    assert windows >= 1
    assert size - 1 - windows * context < 2 * context
    firsts: list[int] = []
    while len(firsts) < 3 * windows:  # ranks in turn give the order of all
        for sampler in ranks:
            inputs, targets = next(sampler)
            assert inputs.shape == targets.shape == (batch_size, context)
            assert inputs.dtype == targets.dtype == np.int64
            assert np.array_equal(targets, inputs + 1)
            assert np.array_equal(inputs, inputs[:, :1] + np.arange(context))
            firsts += inputs[:, 0].tolist()
    for epoch in range(3):
        starts = np.sort(firsts[epoch * windows : (epoch + 1) * windows])
        assert (np.diff(starts) == context).all()
        assert starts[0] < context
        assert starts[-1] + context < size
    assert ranks[0].epoch == len(firsts) / windows


def test_every_epoch_has_its_own_order_and_offset_and_every_token_is_reached() -> None:
    sampler = WindowSampler(counting(1000), 10, 99, seed=0)
    assert sampler.windows_per_epoch == 99
    epochs = [next(sampler)[0][:, 0] for _ in range(200)]
    assert len({tuple(starts) for starts in epochs}) == 200
    assert {int(starts[0] % 10) for starts in epochs} == set(range(10))
    sampler = WindowSampler(counting(1000), 10, 99, seed=0)
    reached = {token for batch, _ in islice(sampler, 200) for token in batch.ravel().tolist()}
    assert reached == set(range(999))  # the last is only ever a target


def test_seeds_give_other_orders() -> None:
    first = [next(WindowSampler(counting(1000), 10, 20, seed=seed))[0] for seed in range(20)]
    assert len({batch.tobytes() for batch in first}) == 20


@quick
@given(before=st.integers(0, 60), after=st.integers(1, 10), rank=st.integers(0, 1))
def test_a_restored_sampler_goes_on_exactly(before: int, after: int, rank: int) -> None:
    def fresh() -> WindowSampler:
        return WindowSampler(counting(500), 7, 5, seed=3, rank=rank, world=2)

    sampler = fresh()
    for _ in range(before):
        next(sampler)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [next(sampler) for _ in range(after)]
    restored = fresh()
    next(restored)
    restored.load_state_dict(state)
    for (inputs, targets), _ in zip(expected, range(after), strict=True):
        again = next(restored)
        assert np.array_equal(again[0], inputs)
        assert np.array_equal(again[1], targets)


def test_with_other_ranks_no_window_comes_twice() -> None:
    tokens = counting(1001)
    pair = [WindowSampler(tokens, 10, 5, seed=0, rank=rank, world=2) for rank in range(2)]
    seen = [next(sampler)[0][:, 0] for _ in range(4) for sampler in pair]
    alone = WindowSampler(tokens, 10, 5, seed=0)
    alone.load_state_dict(pair[0].state_dict())
    seen += [next(alone)[0][:, 0] for _ in range(11)]
    starts = np.concatenate(seen)
    assert len(set(starts.tolist())) == len(starts) == 95


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed"),
        ({"context": 8}, "context"),
        ({"batch_size": 4}, "batch_size"),
        ({"tokens": 501}, "tokens"),
        ({"position": -1}, "position"),
        ({"position": None}, "position"),
        ({"position": 1.5}, "position"),
        ({"position": True}, "position"),
    ],
)
def test_a_state_of_another_sampler_is_refused(change: dict[str, Any], said: str) -> None:
    sampler = WindowSampler(counting(500), 7, 5, seed=0)
    next(sampler)
    state = sampler.state_dict()
    with pytest.raises(ConfigError, match=said):
        sampler.load_state_dict({**state, **change})
    with pytest.raises(ConfigError, match="position"):
        sampler.load_state_dict({})
    assert sampler.state_dict() == state


@pytest.mark.parametrize(
    "change",
    [
        {"context": 0},
        {"context": 2.0},
        {"batch_size": 0},
        {"batch_size": True},
        {"rank": 1},
        {"rank": -1},
        {"world": 0},
        {"seed": 0.5},
    ],
)
def test_an_argument_that_cannot_work_is_refused(change: dict[str, Any]) -> None:
    arguments = {"context": 7, "batch_size": 5, "seed": 0, **change}
    with pytest.raises(ConfigError):
        WindowSampler(counting(500), **arguments)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (counting(10), r"10 \+ 1 tokens.*got 10 tokens"),
        (counting(0), "0 tokens"),
        (counting(20).reshape(2, 10), "one dimension"),
        (counting(20).astype(np.float32), "integers"),
    ],
)
def test_tokens_that_cannot_work_are_refused(tokens: NDArray[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        WindowSampler(tokens, 10, 1, seed=0)
    with pytest.raises(DataError, match=said):
        validation_windows(tokens, 10, 1)


@quick
@given(size=st.integers(2, 300), context=st.integers(1, 20), batch_size=st.integers(1, 9))
def test_validation_reads_every_target_once(size: int, context: int, batch_size: int) -> None:
    if size <= context:
        return
    batches = list(validation_windows(counting(size), context, batch_size))
    targets = np.concatenate([targets for _, targets in batches])
    inputs = np.concatenate([inputs for inputs, _ in batches])
    assert targets.ravel().tolist() == list(range(1, 1 + (size - 1) // context * context))
    assert np.array_equal(inputs + 1, targets)
    assert all(len(targets) == batch_size for _, targets in batches[:-1])


def test_validation_of_some_is_spread_evenly() -> None:
    batches = list(validation_windows(counting(1001), 10, 4, max_tokens=109))
    firsts = np.concatenate([inputs[:, 0] for inputs, _ in batches])
    assert firsts.tolist() == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    whole = list(validation_windows(counting(1001), 10, 4, max_tokens=10**9))
    assert sum(inputs.size for inputs, _ in whole) == 1000


def test_validation_refuses_less_than_a_context() -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        validation_windows(counting(100), 10, 4, max_tokens=9)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_a_memory_map_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(b"\1" * (192 << 20))
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    before = resident("RssFile")
    for _ in islice(WindowSampler(tokens, 256, 64, seed=0), 200):
        assert resident("RssFile") - before < 16 << 20
    for _ in validation_windows(tokens, 256, 4096):
        assert resident("RssFile") - before < 16 << 20


def test_what_was_written_to_a_private_map_stays(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    counting(5000).tofile(path)
    tokens = np.memmap(path, dtype=np.uint16, mode="c")
    tokens[:] = 7
    for inputs, _ in islice(WindowSampler(tokens, 10, 100, seed=0), 20):
        assert (inputs == 7).all()
