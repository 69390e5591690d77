import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.runs import open_run

pytestmark = pytest.mark.slow


TRANSFORMERS = """
import sys
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from metronorm.integrations.transformers import TickCallback

sizes = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1)
Trainer(
    model=GPT2LMHeadModel(sizes),
    args=TrainingArguments(
        sys.argv[1] + "/out", max_steps=3, per_device_train_batch_size=2, use_cpu=True,
        report_to=[], save_strategy="no", include_num_input_tokens_seen="all",
    ),
    train_dataset=[{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 12,
    callbacks=[TickCallback(sys.argv[1] + "/run")],
).train()
"""


def test_transformers(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRANSFORMERS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "run")
    assert run.attempts == [0]
    rows = run.ticks().rows()
    assert sorted((row["tick"], row["rank"]) for row in rows) == [
        (tick, rank) for tick in (1, 2, 3) for rank in (0, 1)
    ]
    # those of both ranks, on the record of the first
    assert [row["tokens"] for row in rows if row["rank"] == 0] == [32] * 3
    assert [row["tokens"] for row in rows if row["rank"]] == [None] * 3


LIGHTNING = """
import sys
import torch
from lightning.pytorch import LightningModule, Trainer
from metronorm.integrations.lightning import TickCallback, TickLogger


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, number):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, logger=TickLogger(sys.argv[1]),
    callbacks=[TickCallback()], use_distributed_sampler=False,  # all data for every rank
).fit(Module(), torch.utils.data.DataLoader(torch.ones(12, 4), batch_size=4))
"""


def test_lightning(tmp_path: Path) -> None:
    """Lightning starts the second rank by itself, without a launcher's variables."""
    script = tmp_path / "train.py"
    script.write_text(LIGHTNING)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "run")
    assert run.attempts == [0]
    rows = run.ticks().rows()
    assert sorted((row["tick"], row["rank"]) for row in rows) == [
        (tick, rank) for tick in (1, 2, 3) for rank in (0, 1)
    ]
