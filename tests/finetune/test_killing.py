"""A fine-tuning that is killed at any instant, in the middle of an epoch, goes on bit for bit."""

import json
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.models.llama.modeling_llama  # noqa: F401, so that no fork must load it
from safetensors.torch import load_file

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.finetune.config import defaults
from metronorm.finetune.data_config import DataConfig
from metronorm.finetune.task import task
from metronorm.finetune.ways import AdaptConfig
from metronorm.train import train
from tests.finetune.pretrained_files import save
from tests.train.killing import Zygote, check_checkpoints
from tests.train.tiny import losses

WAYS: dict[str, tuple[AdaptConfig, str]] = {
    "full": (AdaptConfig(way="full"), "adamw"),
    "full, rounded at random": (AdaptConfig(way="full", body="bf16"), "ticks_sign"),
    "lora": (AdaptConfig(way="lora", rank=2), "adamw"),
    "norm": (AdaptConfig(way="norm", body="bf16"), "ticks_sign"),
}
TICKS, KILLS = 15, 2


def training(kind: str, base: Path) -> tuple[Any, Any]:
    """Task and config, of 180 conversations in about 30 packs of several each."""
    adapt, optimizer = WAYS[kind]
    chance = random.Random(0)
    lines = []
    for _ in range(200):
        words = [f"w{chance.randrange(3, 60)}" for _ in range(chance.randrange(2, 9))]
        lines.append(json.dumps({"prompt": " ".join(words), "completion": " ".join(words[:3])}))
    (base / "rows.jsonl").write_text("\n".join(lines))
    config = replace(
        defaults("chat", adapt, optimizer),  # type: ignore[arg-type]
        model=str(base / "base"),
        data=DataConfig(data=(str(base / "rows.jsonl"),)),
        ticks=TICKS,
        batch_size=1,
        micro_batches=4,
        evaluate_every=5,
        checkpoint_every=2,
        precision="fp32",
        device="cpu",
    )
    return task, config


def kept(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint: what has been trained, and the optimizer's."""
    found = newest_checkpoint(run / "checkpoints")
    assert found.tick == TICKS
    tensors: dict[str, torch.Tensor] = load_file(found.path / "state.safetensors")
    return tensors


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("tests.finetune.test_killing") as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_fine_tuning_goes_on_bit_for_bit(zygote: Zygote, tmp_path: Path, way: str) -> None:
    save(tmp_path / "base", "llama")
    train(*training(way, tmp_path), tmp_path / "whole")
    chance, run = random.Random(way), tmp_path / "run"
    code, how, kills = None, "new", 0
    trainings = zygote.training(way, tmp_path)
    while code != 0:
        if kills < KILLS:
            writing = kills == 1
            code, _ = trainings.killed(run, how, chance, last=5, while_writing=writing)
        else:
            code = trainings.run(run, how)
        assert code in (0, -signal.SIGKILL)
        kills += code == -signal.SIGKILL
        how = "resume"
        check_checkpoints(run)
    assert kills
    assert losses(run) == losses(tmp_path / "whole")
    expected, found = kept(tmp_path / "whole"), kept(run)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
