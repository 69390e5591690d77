"""A run that somebody else made may hold anything: it is used, or refused in one clear error."""

import contextlib
import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.checkpoints.checkpoint import MODEL, STATE, TENSORS, open_checkpoint
from metronorm.checkpoints.checks import digest_file, digest_values
from metronorm.checkpoints.folder import checkpoint_paths
from metronorm.cli import main
from metronorm.errors import CheckpointError, DataError, MetronormError, RunError
from metronorm.models.gpt import GPT
from metronorm.tasks import text
from metronorm.tasks.text import Config, generate_text, load_model
from metronorm.train import train
from metronorm.train.config_changes import config_from_dict
from metronorm.train.optimizers import make_optimizer
from metronorm.train.resuming import checkpoint_to_resume

from .tiny import tiny_config


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("foreign")
    train(text.task, config_in(base), base / "run")
    return base / "run"


def config_in(base: Path) -> Config:
    return tiny_config(base, ticks=2, checkpoint_every=2, evaluate_every=2, evaluate_tokens=16)


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def checkpoint_of(run: Path) -> Path:
    (path,) = checkpoint_paths(run / "checkpoints")
    return path


def read(run: Path) -> dict[str, Any]:
    return msgspec.json.decode((checkpoint_of(run) / STATE).read_bytes(), type=dict[str, Any])


def rewrite(run: Path, state: Any, *, sealed: bool = True) -> None:
    """Put another state.json there, with the hashes that a careful forger would write."""
    path = checkpoint_of(run)
    if isinstance(state, dict):
        state.pop("sha256", None)
        if sealed and isinstance(state.get("files"), dict):
            for name in (MODEL, TENSORS):
                state["files"][name] = msgspec.to_builtins(digest_file(path / name))
        state["sha256"] = digest_values(state)
    (path / STATE).write_bytes(msgspec.json.encode(state))


def use(run: Path) -> None:
    """All that is done with a checkpoint: a sample, and a resume up to the first update."""
    "".join(generate_text(run, prompt="a", max_tokens=1, seed=0))
    found = checkpoint_to_resume(run)
    assert found is not None
    config = config_from_dict(found.state["config"], Config)
    model = GPT(config.model)
    found.load_model(model)
    optimizer = make_optimizer(model, config.optimizer, torch.device("cpu"))
    found.load_optimizer(optimizer)
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    model(torch.zeros(1, 2, dtype=torch.int64)).sum().backward()
    optimizer.step()


# --- by name ------------------------------------------------------------------------------------


def test_a_copied_run_can_be_used(run: Path, original: Path) -> None:
    use(run)
    assert train(text.task, config_in(original.parent), run, resume=True).tick == 2


@pytest.mark.parametrize(
    "files",
    [
        {},
        {MODEL: {"bytes": 0, "sha256": ""}},
        {"/dev/zero": {"bytes": 0, "sha256": ""}},
        {MODEL: None, TENSORS: None, "../../run.json": None},
        {MODEL: None, TENSORS: None, "/dev/zero": None},
        [],
        None,
        {MODEL: [], TENSORS: "x"},
    ],
    ids=str,
)
def test_its_two_files_are_listed_and_no_other(run: Path, files: Any) -> None:
    state = read(run)
    if isinstance(files, dict):
        files = {
            name: value if value is not None else state["files"].get(name, state["files"][MODEL])
            for name, value in files.items()
        }
    rewrite(run, state | {"files": files}, sealed=False)
    with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
        open_checkpoint(checkpoint_of(run))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def an_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("other", [a_pipe, an_endless_device, a_link, a_folder])
@pytest.mark.parametrize("name", [MODEL, TENSORS, STATE])
def test_only_regular_files_are_read(run: Path, name: str, other: Callable[[Path], None]) -> None:
    path = checkpoint_of(run) / name
    path.rename(path.with_name("elsewhere"))
    other(path)
    with pytest.raises(CheckpointError):
        open_checkpoint(path.parent)


@pytest.mark.parametrize("other", [a_pipe, an_endless_device, a_folder])
def test_only_a_regular_tokenizer_is_read(run: Path, other: Callable[[Path], None]) -> None:
    (run / "tokenizer.json").unlink()
    other(run / "tokenizer.json")
    says = r"must be a readable tokenizer\.json.*; try: metronorm train --resume .*, which writes"
    with pytest.raises(DataError, match=says):
        next(generate_text(run, prompt="a", max_tokens=1))


@pytest.mark.parametrize("name", [STATE, "tokenizer.json"])
@pytest.mark.parametrize("bomb", ["[" * 200_000, '{"a":' * 200_000, "[" * 100 + "]" * 100])
def test_nested_brackets_are_an_error(run: Path, name: str, bomb: str) -> None:
    ((run if name == "tokenizer.json" else checkpoint_of(run)) / name).write_text(bomb)
    with pytest.raises(MetronormError):
        next(generate_text(run, prompt="a", max_tokens=1))


def test_a_state_of_many_megabytes_is_not_read(run: Path) -> None:
    with open(checkpoint_of(run) / STATE, "ab") as file:
        file.truncate(1 << 40)  # a terabyte of nothing, which takes no room on the disk
    with pytest.raises(CheckpointError, match="more than 16 MiB"):
        open_checkpoint(checkpoint_of(run))


def test_a_file_of_another_size_is_not_hashed(run: Path) -> None:
    with open(checkpoint_of(run) / MODEL, "ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="1099511627776 bytes that do not match"):
        open_checkpoint(checkpoint_of(run))


def test_one_changed_number_in_the_state_is_found(run: Path) -> None:
    state = read(run)
    state["sampler"]["examples"] += 1
    (checkpoint_of(run) / STATE).write_bytes(msgspec.json.encode(state))
    with pytest.raises(CheckpointError, match=r"state\.json that does not match its SHA-256"):
        open_checkpoint(checkpoint_of(run))


def test_a_checkpoint_from_before_the_state_had_a_hash_is_read(run: Path) -> None:
    state = read(run)
    for name in ("sha256", "tokenizer", "machine"):
        del state[name]
    (checkpoint_of(run) / STATE).write_bytes(msgspec.json.encode(state))
    use(run)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": 10**9}, "must hold the model that its config describes"),
        ({"context": 2**31 - 1}, "needs at least"),
        ({"width": 2**30}, "must hold the model that its config describes"),
        ({"vocab_size": 10**30}, "vocab_size must be"),
        ({"layers": True}, "layers must be a whole number"),
        ({"heads": 0}, "heads must be"),
    ],
)
def test_an_absurd_model_takes_no_memory(run: Path, changes: dict[str, Any], says: str) -> None:
    state = read(run)
    state["config"]["model"] |= changes
    state["config"]["evaluate_tokens"] = 0
    rewrite(run, state)
    with pytest.raises(MetronormError, match=says):
        load_model(run)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[" * 200_000,
        b"{}",
        b'{"a": []}',
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}',
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 0], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
    ],
    ids=lambda header: header[:40].decode(),
)
@pytest.mark.parametrize("name", [MODEL, TENSORS])
def test_a_lying_header_is_an_error(run: Path, name: str, header: bytes) -> None:
    (checkpoint_of(run) / name).write_bytes(len(header).to_bytes(8, "little") + header)
    rewrite(run, read(run))
    with pytest.raises(CheckpointError):
        use(run)


def test_weights_of_another_dtype_are_refused(run: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = checkpoint_of(run) / MODEL
    save_file({name: one.double() for name, one in load_file(path).items()}, path)
    rewrite(run, read(run))
    with pytest.raises(CheckpointError, match=r"torch\.float64 in the checkpoint, torch\.float32"):
        load_model(run)


def test_a_later_format_asks_for_an_upgrade(
    run: Path, original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where an older checkpoint could be read: going on from that one would lose ticks."""
    shutil.copytree(checkpoint_of(run), run / "checkpoints" / "tick-00000001")
    path = checkpoint_paths(run / "checkpoints")[-1]
    state = msgspec.json.decode((path / STATE).read_bytes())
    (path / STATE).write_bytes(msgspec.json.encode(state | {"format": 99}))
    for argv in (["sample", str(run), "--checkpoint", "last"], ["train", "--resume", str(run)]):
        assert main(argv) == 2
        assert "format 99 in" in (err := capsys.readouterr().err)
        assert err.endswith("try: upgrade metronorm\n")


def test_the_tokenizer_of_another_run_is_refused(run: Path) -> None:
    path = run / "tokenizer.json"
    content = json.loads(path.read_text())
    content["characters"] = content["characters"][1:] + content["characters"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="must be the tokenizer that tick-00000002 was made with"):
        next(generate_text(run, prompt="a", max_tokens=1))


def test_a_tokenizer_of_another_size_is_refused_where_there_is_no_hash(run: Path) -> None:
    state = read(run)
    del state["tokenizer"]
    rewrite(run, state)
    path = run / "tokenizer.json"
    content = json.loads(path.read_text())
    content["characters"] += "xyz"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="another one, of"):
        next(generate_text(run, prompt="a", max_tokens=1))


@pytest.mark.parametrize("there", [True, False])
def test_a_resume_puts_the_tokenizer_back(run: Path, original: Path, there: bool) -> None:
    before = (run / "tokenizer.json").read_bytes()
    (run / "tokenizer.json").unlink()
    if there:
        (run / "tokenizer.json").write_text("{}")
    train(text.task, config_in(original.parent), run, resume=True)
    assert (run / "tokenizer.json").read_bytes() == before


def test_a_checkpoint_of_another_run_is_refused(run: Path, original: Path) -> None:
    config = config_in(original.parent)
    train(text.task, replace(config, seed=5, ticks=3), run.parent / "another")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.parent / "another" / "checkpoints", run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"of this run; .* another config \(seed\)"):
        train(text.task, config, run, resume=True)


@pytest.mark.parametrize("other", ["file", "link"])
def test_checkpoints_that_have_no_place_are_told_of_before_the_first_tick(
    run: Path, original: Path, other: str
) -> None:
    shutil.rmtree(run / "checkpoints")
    if other == "file":
        (run / "checkpoints").touch()
    else:
        (run / "checkpoints").symlink_to("/nowhere/at all")
    with pytest.raises(RunError, match=r"directory must be writable .*: File exists"):
        train(text.task, config_in(original.parent), run, resume=True)


def test_nothing_is_written_where_a_foreign_run_says(
    run: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(run.parent / "mine"))
    info = json.loads((run / "run.json").read_text())
    info["config"]["text"]["cache"] = str(run.parent / "theirs")
    (run / "run.json").write_text(json.dumps(info))
    assert main(["train", "--resume", str(run)]) == 0
    assert not (run.parent / "theirs").exists()
    assert (run.parent / "mine").exists()


# --- by chance ------------------------------------------------------------------------------------

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from([2**63, 10**30, -1, 0, 1e308]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in nested JSON values."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in list(pairs):
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places_in(inner)
    return found


@pytest.fixture(scope="module")
def victim(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("victim") / "run"
    shutil.copytree(original, run)
    return run


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_whatever_stands_in_the_state_there_is_no_traceback(
    original: Path, victim: Path, data: st.DataObject
) -> None:
    state = copy.deepcopy(read(original))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places_in(state)))
        if isinstance(container, dict) and data.draw(st.booleans()):
            del container[key]
        elif isinstance(container[key], bool) and data.draw(st.booleans()):
            container[key] = not container[key]
        else:
            container[key] = data.draw(anything)
        if not places_in(state):
            break
    rewrite(victim, state, sealed=False)
    with contextlib.suppress(MetronormError):
        use(victim)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), name=st.sampled_from([MODEL, TENSORS]))
def test_whatever_stands_in_a_header_there_is_no_traceback(
    original: Path, victim: Path, data: st.DataObject, name: str
) -> None:
    path = checkpoint_of(victim) / name
    whole = (checkpoint_of(original) / name).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    container, key = data.draw(st.sampled_from(places_in(header)))
    container[key] = data.draw(anything)
    changed = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(changed), len(changed) - 1, 2**63, 0]))
    path.write_bytes(length.to_bytes(8, "little") + changed + whole[8 + size :])
    rewrite(victim, read(original))
    try:
        with contextlib.suppress(MetronormError):
            use(victim)
    finally:
        path.write_bytes(whole)
