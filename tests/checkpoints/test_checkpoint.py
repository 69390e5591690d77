import logging
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from metronorm.checkpoints import checkpoint, folder
from metronorm.errors import CheckpointError


def model_and_optimizer(width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.randn(4, width)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, tick: int, loss: float | None = None) -> Path:
    model, optimizer = model_and_optimizer()
    return checkpoint.save(
        folder, model=model, optimizer=optimizer, state={"tick": tick, "validation_loss": loss}
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    path = checkpoint.save(
        tmp_path,
        model=model,
        optimizer=optimizer,
        state={"tick": 7, "sampler": {"position": 3}},
    )
    other, other_optimizer = model_and_optimizer()
    found = checkpoint.open_checkpoint(path)
    found.load_model(other)
    found.load_optimizer(other_optimizer)
    assert path.name == "tick-00000007"
    assert found.tick == 7
    assert found.state["sampler"] == {"position": 3}
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for key, value in optimizer.state[mine].items():
            restored = other_optimizer.state[theirs][key]
            assert torch.equal(restored, value)
            assert restored.dtype == value.dtype
    assert other_optimizer.param_groups[0]["lr"] == 0.1
    assert sorted(file.name for file in path.iterdir()) == [
        "model.safetensors",
        "state.json",
        "state.safetensors",
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_damage_is_found_and_the_one_before_taken(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"")
    with pytest.raises(CheckpointError):
        checkpoint.open_checkpoint(file.parent)
    with caplog.at_level(logging.WARNING):
        assert folder.newest_checkpoint(tmp_path).tick == 1
    assert "passing over a damaged checkpoint" in caplog.text
    assert file.parent.exists(), "nothing is thrown away"


def test_none_left(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="with none"):
        folder.newest_checkpoint(tmp_path)
    (save(tmp_path, 1) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="only damaged ones: tick-00000001"):
        folder.newest_checkpoint(tmp_path)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for tick, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.5), (6, None)):
        save(tmp_path, tick, loss)
        folder.prune(tmp_path, keep=2, tick=tick)
    assert [path.name for path in folder.checkpoint_paths(tmp_path)] == [
        "tick-00000002",
        "tick-00000005",
        "tick-00000006",
    ]
    best = folder.best_checkpoint(tmp_path)
    assert best is not None
    assert best.tick == 2


def test_a_tick_done_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    save(tmp_path, 1, 2.0)
    assert checkpoint.open_checkpoint(tmp_path / "tick-00000001").state["validation_loss"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["tick-00000001"]


def test_other_shapes_are_listed(tmp_path: Path) -> None:
    found = checkpoint.open_checkpoint(save(tmp_path, 1))
    with pytest.raises(
        CheckpointError, match=r"weight: \(2, 3\) in the checkpoint, \(2, 5\) in the"
    ):
        found.load_model(nn.Linear(5, 2))
    with pytest.raises(
        CheckpointError, match=r"bias: \(2,\) in the checkpoint, absent in the model"
    ):
        found.load_model(nn.Linear(3, 2, bias=False))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    state = msgspec.json.decode((path / "state.json").read_bytes())
    (path / "state.json").write_bytes(msgspec.json.encode(state | {"format": 99}))
    with pytest.raises(CheckpointError, match="upgrade metronorm"):
        checkpoint.open_checkpoint(path)
