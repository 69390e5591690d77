"""Checkpoints of several ranks: any number saves, any number loads; and what is found wrong."""

import copy
import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from metronorm.checkpoints import checkpoint, folder
from metronorm.checkpoints.checks import STATE, digest_file, digest_values
from metronorm.checkpoints.shards import Part, TensorFiles, rows_of
from metronorm.checkpoints.world import ONE_PROCESS
from metronorm.errors import CheckpointError

from ..forked import Forks
from ..full_disk import fill, small_disk
from ..side_by_side import run_together
from .rank_threads import Thread, on_ranks

NAME = "tick-00000007"


SEEDING = threading.Lock()  # the ranks are threads here


def training(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    with SEEDING:
        return seeded_training(seed)


def seeded_training(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def taken_by(rank: int, size: int, seed: int = 0) -> checkpoint.Taken:
    """What this rank has, where FSDP2 has divided all but numbers."""
    model, optimizer = training(seed)
    taken = checkpoint.take(model=model, optimizer=optimizer, state={"tick": 7})

    def divided(part: Part) -> Part:
        if not part.shape:
            return part if rank == 0 else part._replace(local=part.local.new_empty(0), end=0)
        each = -(-rows_of(part.shape) // size)
        begin, end = (min(part.shape[0], each * place) for place in (rank, rank + 1))
        return Part(part.local[begin:end].clone(), part.shape, begin, end, True)

    parts = [{k: divided(v) for k, v in each.items()} for each in (taken.model, taken.state)]
    return replace(taken, model=parts[0], state=parts[1], sharded=True)


def save(folder: Path, size: int, seed: int = 0) -> Path:
    (path, *_) = on_ranks(
        size, lambda world: checkpoint.write(folder, taken_by(world.rank, size, seed), world)
    )
    assert isinstance(path, Path), path
    return path


def check_loaded(found: checkpoint.Checkpoint, world: Any) -> None:
    (model, optimizer), (saved, saved_optimizer) = training(1), training(0)
    found.load_model(model, world=world)
    found.load_optimizer(optimizer, world=world)
    for mine, theirs in zip(model.parameters(), saved.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for key, value in saved_optimizer.state[theirs].items():
            assert torch.equal(optimizer.state[mine][key], value)
    assert sum(p.numel() for p in model.parameters()) == 59
    found.check_parameters(59)


@pytest.mark.parametrize(("savers", "loaders"), [(1, 1), (2, 1), (3, 2), (4, 3), (9, 2)])
def test_any_number_of_ranks_loads_what_any_number_saved(
    savers: int, loaders: int, tmp_path: Path
) -> None:
    path = save(tmp_path, savers)
    files = [
        f"{kind}-{rank:05d}-of-{savers:05d}.safetensors"
        for kind in ("model", "state")
        for rank in range(1, savers + 1)
    ]
    assert sorted(file.name for file in path.iterdir()) == sorted([*files, STATE])
    assert [each.name for each in tmp_path.iterdir()] == [NAME]
    check_loaded(checkpoint.open_checkpoint(path), world=ONE_PROCESS)

    def load(world: Thread) -> None:
        check_loaded(folder.newest_checkpoint(tmp_path, world), world)

    assert on_ranks(loaders, load) == [None] * loaders


def test_fingerprints_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    found = []
    for size in (1, 2, 5):
        state = checkpoint.open_checkpoint(save(tmp_path / str(size), size)).state
        found.append({name: each["fingerprint"] for name, each in state["shards"]["state"].items()})
    assert found[0] == found[1] == found[2]
    assert len(set(found[0].values())) > 8


def test_ranks_that_have_the_same_write_one_plain_checkpoint(tmp_path: Path) -> None:
    def save_whole(world: Thread) -> Path:
        model, optimizer = training(0)
        return checkpoint.save(
            tmp_path / "ranks", model=model, optimizer=optimizer, state={"tick": 7}, world=world
        )

    path, *_ = on_ranks(3, save_whole)
    model, optimizer = training(0)
    plain = checkpoint.save(tmp_path / "one", model=model, optimizer=optimizer, state={"tick": 7})
    names = sorted(file.name for file in plain.iterdir())
    assert names == ["model.safetensors", "state.json", "state.safetensors"]
    assert sorted(file.name for file in path.iterdir()) == names
    for name in names:
        assert (path / name).read_bytes() == (plain / name).read_bytes()
    assert msgspec.json.decode((path / STATE).read_bytes())["format"] == 1


def test_a_checkpoint_that_was_taken_stays_as_it_was(tmp_path: Path) -> None:
    model, optimizer = training(0)
    state = {"tick": 7, "measures": {"loss": 1.0}}
    taken = checkpoint.take(model=model, optimizer=optimizer, state=state)
    assert taken.bytes == 59 * 4 * 3 + 4 * 4  # weights, two moments of each, four counters
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.5
    state["measures"]["loss"] = 2.0
    found = checkpoint.open_checkpoint(checkpoint.write(tmp_path, taken))
    assert found.state["measures"] == {"loss": 1.0}
    assert found.state["optimizer"]["param_groups"][0]["lr"] == 0.1
    check_loaded(found, ONE_PROCESS)


# --- one rank fails -------------------------------------------------------------------------------


def test_where_one_rank_cannot_write_all_fail_and_nothing_is_left(tmp_path: Path) -> None:
    save(tmp_path / "run", 3)

    def write(world: Thread) -> Path:
        there = "run" if world.rank != 1 else "not mounted"
        taken = replace(taken_by(world.rank, 3), tick=8)
        return checkpoint.write(tmp_path / there, taken, world)

    errors = on_ranks(3, write)
    assert [type(error) for error in errors] == [FileNotFoundError] * 3
    assert [error.errno for error in errors] == [errno.ENOENT] * 3
    assert [str(error).endswith("(rank 1)") for error in errors] == [True, False, True]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [NAME]
    check_loaded(folder.newest_checkpoint(tmp_path / "run"), ONE_PROCESS)


def test_on_a_full_disk_the_first_rank_makes_room_for_all(tmp_path: Path) -> None:
    def write(world: Thread, tick: int) -> Path:
        taken = replace(taken_by(world.rank, 3), tick=tick)
        return folder.write(disk, taken, world)

    with small_disk(tmp_path / "disk") as disk:
        for tick in (1, 2, 3):
            assert on_ranks(3, partial(write, tick=tick)) == [disk / f"tick-0000000{tick}"] * 3
        fill(disk)
        assert on_ranks(3, partial(write, tick=4)) == [disk / "tick-00000004"] * 3
        assert {path.name for path in disk.glob("*tick*")} == {"tick-00000003", "tick-00000004"}
        folder.prune(disk, keep=1, tick=4)
        fill(disk)
        errors = on_ranks(3, partial(write, tick=5))
        assert [error.errno for error in errors] == [errno.ENOSPC] * 3
        assert [path.name for path in disk.glob("*tick*")] == ["tick-00000004"]
        check_loaded(folder.newest_checkpoint(disk), ONE_PROCESS)


def test_ranks_of_other_tensors_are_refused(tmp_path: Path) -> None:
    def write(world: Thread) -> Path:
        taken = taken_by(world.rank, 2)
        if world.rank:
            del taken.model["0.bias"]
        return checkpoint.write(tmp_path, taken, world)

    for error in on_ranks(2, write):
        assert isinstance(error, CheckpointError)
        assert "all ranks must have the same tensors" in str(error)
    assert not list(tmp_path.iterdir())


def test_shards_in_another_order_than_the_ranks_are_refused(tmp_path: Path) -> None:
    def write(world: Thread) -> Path:
        return checkpoint.write(tmp_path, taken_by(1 - world.rank, 2), world)

    for error in on_ranks(2, write):
        assert "in the order of the ranks" in str(error)


def test_an_error_of_one_rank_is_an_error_of_all(tmp_path: Path) -> None:
    path = save(tmp_path, 2)

    def load(world: Thread) -> None:
        model = training(1)[0] if world.rank == 0 else nn.Linear(2, 2)
        checkpoint.open_checkpoint(path, world).load_model(model, world=world)

    for error in on_ranks(2, load):
        assert isinstance(error, CheckpointError)
        assert "must fit the model" in str(error)


DIES = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from metronorm.checkpoints import checkpoint
from tests.checkpoints.test_shards import taken_by

class Dying:
    rank, size, calls = 0, 2, 0
    def gather(self, value):
        self.calls += 1
        if self.calls == 2:  # its files are written, and the manifest is not
            os._exit(0)
        return [value, value]

checkpoint.write(Path(sys.argv[2]), taken_by(0, 2), Dying())
"""


def test_a_checkpoint_whose_rank_died_is_reported_and_cleaned_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path, 2)
    path.rename(tmp_path / "tick-00000006")
    run_together([["-c", DIES, str(Path(__file__).parents[2]), str(tmp_path)]], seconds=60)
    (unfinished,) = tmp_path.glob(".tick-00000007.*.tmp")
    assert len(list(unfinished.iterdir())) == 2
    with caplog.at_level(logging.WARNING):
        assert folder.newest_checkpoint(tmp_path).path.name == "tick-00000006"
    assert caplog.messages == [f"passing over a checkpoint that was not finished: {unfinished}"]
    folder.prune(tmp_path, keep=2, tick=6)
    assert [each.name for each in tmp_path.iterdir()] == ["tick-00000006"]


# --- found wrong ----------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change state.json, with the hashes that a careful forger would write."""
    state = msgspec.json.decode((path / STATE).read_bytes())
    del state["sha256"]
    for name in state["files"]:
        state["files"][name] = msgspec.to_builtins(digest_file(path / name))
    change(state)
    state["sha256"] = digest_values(state)
    (path / STATE).write_bytes(msgspec.json.encode(state))


def weight(state: dict[str, Any]) -> dict[str, Any]:
    return state["shards"]["model"]["0.weight"]  # (7, 4), of rows 0 3 6 7


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "rows of another file": lambda state: weight(state).update(rows=[0, 3, 5, 7]),
    "rows twice": lambda state: weight(state).update(rows=[0, 6, 3, 7]),
    "rows missing in front": lambda state: weight(state).update(rows=[3, 3, 6, 7]),
    "rows missing at the end": lambda state: weight(state).update(rows=[0, 3, 6]),
    "rows beyond the end": lambda state: weight(state).update(rows=[0, 3, 6, 8]),
    "rows below zero": lambda state: weight(state).update(rows=[-1, 3, 6, 7]),
    "more files than there are": lambda state: weight(state).update(rows=[0, 3, 6, 7, 7]),
    "no rows": lambda state: weight(state).update(rows=[]),
    "a text for rows": lambda state: weight(state).update(rows="0 3 6 7"),
    "another shape": lambda state: weight(state).update(shape=[7, 5]),
    "a shape of terabytes": lambda state: weight(state).update(shape=[7, 1 << 40]),
    "a shape beyond numbers": lambda state: weight(state).update(shape=[7, 1 << 70]),
    "rows of terabytes": lambda state: weight(state).update(
        shape=[1 << 40, 4], rows=[0, 3, 6, 1 << 40]
    ),
    "another dtype": lambda state: weight(state).update(dtype="float64"),
    "no dtype": lambda state: weight(state).update(dtype="save"),
    "no fingerprint": lambda state: weight(state).update(fingerprint=None),
    "a fingerprint of another kind": lambda state: weight(state).update(fingerprint="x"),
    "a tensor that is nowhere": lambda state: state["shards"]["model"].update(
        {"more": {**weight(state), "shape": [3], "rows": [0, 3]}}
    ),
    "a tensor not mentioned": lambda state: state["shards"]["model"].pop("0.weight"),
    "no shards": lambda state: state.pop("shards"),
    "the older format": lambda state: state.update(format=1),
    "shards of nothing": lambda state: state.update(shards={}),
    "no files": lambda state: state.update(files={}),
    "a file less": lambda state: state["files"].pop("model-00003-of-00003.safetensors"),
    "the files of another world": lambda state: state.update(
        files={name.replace("of-00003", "of-00004"): each for name, each in state["files"].items()}
    ),
    "a file elsewhere": lambda state: state["files"].update(
        {"../tick-00000006/model.safetensors": next(iter(state["files"].values()))}
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("saved"), 3)


@pytest.fixture
def path(saved: Path, tmp_path: Path) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_forger_of_these_tests_changes_only_what_it_should(path: Path) -> None:
    rewrite(path, lambda state: None)
    check_loaded(checkpoint.open_checkpoint(path), ONE_PROCESS)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_is_one_error(path: Path, name: str) -> None:
    rewrite(path, FORGED[name])
    with pytest.raises(CheckpointError, match=r"must be a whole checkpoint"):
        checkpoint.open_checkpoint(path)
    for error in on_ranks(2, lambda world: checkpoint.open_checkpoint(path, world)):
        assert isinstance(error, CheckpointError)


def test_a_forged_fingerprint_is_one_error_on_all_ranks(path: Path) -> None:
    rewrite(path, lambda state: weight(state).update(fingerprint="0123456789abcdef"))

    def load(world: Thread) -> None:
        checkpoint.open_checkpoint(path, world).load_model(training(1)[0], world=world)

    for error in on_ranks(2, load):
        assert isinstance(error, CheckpointError)
        assert "other ones in 0.weight" in str(error)


@pytest.mark.parametrize("loaders", [1, 2, 3, 4, 8])
def test_each_rank_reads_its_rows_and_all_of_them_check_the_whole(path: Path, loaders: int) -> None:
    taken = [taken_by(rank, loaders) for rank in range(loaders)]
    wholes = checkpoint.open_checkpoint(path).manifest.wholes("state.safetensors")
    files = sorted(path.glob("state-*"))

    def read(world: Thread, *, wrong: bool = False) -> None:
        source = TensorFiles(files, wholes)
        for name, part in taken[world.rank].state.items():
            if part.shape or world.rank == 0:
                rows = source.read_rows(name, part.begin - wrong, part.end - wrong)
                assert wrong or torch.equal(rows, part.local)
        source.verify(world)

    assert on_ranks(loaders, read) == [None] * loaders
    if loaders > 1:
        for error in on_ranks(loaders, lambda world: read(world, wrong=world.rank == 1)):
            assert isinstance(error, CheckpointError)
            assert "numbers that were saved, each in its place" in str(error)


@pytest.mark.parametrize("how", ["permuted", "stale"])
def test_shards_in_the_place_of_others_are_found_by_the_fingerprint(path: Path, how: str) -> None:
    first, second = (path / f"model-0000{rank}-of-00003.safetensors" for rank in (1, 2))
    if how == "stale":
        other = save(path.parent / "other", 3, seed=5)
        first.write_bytes((other / first.name).read_bytes())
    else:  # of the first layer; the second has (1, 7) in each
        from safetensors.torch import load_file, save_file

        one, two = load_file(first), load_file(second)
        one["0.weight"], two["0.weight"] = two["0.weight"], one["0.weight"]
        save_file(one, first)
        save_file(two, second)
    rewrite(path, lambda state: None)
    model, _ = training(1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r"numbers that were saved.*; got other ones in 0"):
        checkpoint.open_checkpoint(path).load_model(model)
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_damage_in_a_file_is_found_by_whichever_rank_reads_it(path: Path, rank: int) -> None:
    file = path / f"state-0000{rank}-of-00003.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for error in on_ranks(2, lambda world: checkpoint.open_checkpoint(path, world)):
        assert isinstance(error, CheckpointError)
        assert f"state-0000{rank}-of-00003" in str(error)


# --- processes with FSDP2 -------------------------------------------------------------------------

SCRIPT = Path(__file__).parent / "checkpoint_ranks.py"


@pytest.mark.slow
def test_sharded_models_and_optimizers(ranks_of_torch: Forks, tmp_path: Path) -> None:
    ranks_of_torch.run_together(
        [
            [str(SCRIPT), str(rank), str(tmp_path / "store"), str(tmp_path / "saved")]
            for rank in range(4)
        ],
        seconds=120,
    )
