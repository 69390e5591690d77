import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from metronorm.errors import ConfigError, RunError
from metronorm.integrations.lightning import TickCallback, TickLogger
from metronorm.runs import open_run

from .runs import errors, events, numbers, ticks_with, whole

# of Lightning: its own use of torch, and data that is loaded by this process or in few batches
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


class Module(LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.losses.append(loss.item())
        self.log("train_loss", loss)
        self.log("train_loss_of_epoch", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: torch.Tensor, number: int) -> None:
        self.log("val_loss", self.layer(batch).square().mean())

    def test_step(self, batch: torch.Tensor, number: int) -> None:
        self.log("test_loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class Manual(Module):
    """Two optimizer steps in every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, number: int) -> None:
        for _ in range(2 * (number % 2)):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).square().mean())
            optimizer.step()


def loader(rows: int) -> DataLoader[torch.Tensor]:
    values = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
    return DataLoader(values, batch_size=2)  # type: ignore[arg-type]


def trainer(folder: Path, **options: Any) -> Trainer:
    """Five batches an epoch, in windows of two: six ticks in its two epochs."""
    torch.manual_seed(0)
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "accumulate_grad_batches": 2,
            "log_every_n_steps": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
        }
        | options
    )


def csv(folder: Path) -> list[dict[str, float]]:
    """What Lightning's own logger has written."""
    (path,) = folder.rglob("metrics.csv")
    names, *rows = [line.split(",") for line in path.read_text().splitlines()]
    return [
        {name: float(value) for name, value in zip(names, row, strict=True) if value}
        for row in rows
    ]


def test_every_optimizer_step_is_a_tick(tmp_path: Path) -> None:
    module = Module()
    made = trainer(
        tmp_path,
        logger=[TickLogger(tmp_path / "run"), CSVLogger(tmp_path / "csv")],
        callbacks=[TickCallback()],
        enable_checkpointing=True,
    )
    made.fit(module, loader(10), loader(4))
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert [row["tick"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["beats"] for row in rows] == [2, 2, 1] * 2
    assert whole(rows)
    for phase in ("data", "forward", "backward", "update"):
        assert all(row[f"{phase}_ns"] for row in rows)
    for phase in ("evaluate", "checkpoint"):
        assert ticks_with(rows, f"{phase}_ns") == [3, 6]
    first, last, windows = module.losses[:5], module.losses[5:], [(0, 2), (2, 4), (4, 5)]
    assert [row["loss"] for row in rows] == pytest.approx(
        [sum(epoch[a:b]) / (b - a) for epoch in (first, last) for a, b in windows]
    )
    reported = csv(tmp_path / "csv")
    assert sum("val_loss" in metrics for metrics in reported) == 2
    assert sum("train_loss_of_epoch" in metrics for metrics in reported) == 2
    assert sum("train_loss" in metrics for metrics in reported) == 6
    for metrics in reported:
        row = rows[int(metrics.pop("step"))]  # step 0 is the first tick
        assert {name: row[name] for name in metrics} == metrics
    assert run.info.config["lr"] == 0.1
    assert run.info.config["accumulate_grad_batches"] == 2
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


def test_the_callback_alone(tmp_path: Path) -> None:
    module = Module()
    callback = TickCallback(tmp_path / "run", config={"note": "mine"})
    made = trainer(tmp_path, callbacks=[callback], accumulate_grad_batches=1)
    made.fit(module, loader(6), loader(4))
    with pytest.raises(ConfigError, match="while it trains"):
        _ = callback.clock
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert [row["loss"] for row in rows] == pytest.approx(module.losses)
    assert whole(rows)
    assert ticks_with(rows, "evaluate_ns") == [3, 6]
    assert run.info.config["lr"] == 0.1
    assert run.info.config["note"] == "mine"
    assert errors(run) == [None]


def test_the_logger_alone(tmp_path: Path) -> None:
    """Every logged step is a tick, with the number it has elsewhere."""
    made = trainer(tmp_path, logger=TickLogger(tmp_path / "run"), log_every_n_steps=2)
    module = Module()
    made.fit(module, loader(10), loader(4))
    made.test(module, loader(4), verbose=False)
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert [(row["tick"], row["train_loss"]) for row in rows] == [
        (2, pytest.approx(module.losses[3])),
        (3, None),
        (4, pytest.approx(module.losses[6])),
        (6, pytest.approx(module.losses[9])),
    ]
    assert ticks_with(rows, "val_loss") == [3, 6]
    assert run.info.config == {"lr": 0.1}
    ((_, _, fields),) = events(run, "logged")
    assert "test_loss" in fields["values"]


def test_a_fit_a_test_and_another_fit(tmp_path: Path) -> None:
    module, logger, callback = Module(), TickLogger(tmp_path / "run"), TickCallback()
    made = trainer(tmp_path, logger=logger, callbacks=[callback], max_epochs=1)
    made.fit(module, loader(10), loader(4))
    made.test(module, loader(4), verbose=False)
    again = trainer(tmp_path, logger=logger, callbacks=[callback], max_epochs=1)
    again.fit(module, loader(4))
    run = open_run(tmp_path / "run")
    assert numbers(run) == [(0, 1), (0, 2), (0, 3), (2, 4)]
    ((attempt, tick, fields),) = events(run, "logged")
    assert (attempt, tick) == (1, 3)
    assert "test_loss" in fields["values"]


def test_a_resume_from_a_checkpoint_is_a_new_attempt(tmp_path: Path) -> None:
    def fit(epochs: int, checkpoint: Path | None) -> None:
        saving = ModelCheckpoint(save_top_k=-1)
        made = trainer(
            tmp_path,
            logger=TickLogger(tmp_path / "run"),
            callbacks=[TickCallback(), saving],
            enable_checkpointing=True,
            max_epochs=epochs,
        )
        made.fit(Module(), loader(12), ckpt_path=checkpoint, weights_only=False)

    fit(2, None)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*step=3.ckpt")
    fit(3, checkpoint)
    run = open_run(tmp_path / "run")
    assert run.attempts == [0, 1]
    assert numbers(run) == [(int(tick > 3), tick) for tick in range(1, 10)]
    assert len(run.ticks("full").rows()) == 12
    with pytest.raises(RunError, match="needs a directory of its own"):
        fit(1, None)


class Adversarial(Module):
    """Two optimizers, each of which steps in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, number: int) -> None:
        for layer, optimizer in zip((self.layer, self.other), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(layer(batch).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        layers = (self.layer, self.other)
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]


class SaveFifth(Callback):
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 4:
            trainer.save_checkpoint(Path(trainer.default_root_dir, "fifth.ckpt"))


@pytest.mark.parametrize("has_logger", [False, True])
@pytest.mark.parametrize("is_first", [False, True])  # of the callbacks, the one that saves
@pytest.mark.parametrize("is_old", [False, True])
def test_a_batch_is_a_tick_whatever_steps_it_has_also_after_a_resume(
    tmp_path: Path, has_logger: bool, is_first: bool, is_old: bool
) -> None:
    def fit(checkpoint: Path | None) -> Trainer:
        callback = TickCallback(None if has_logger else tmp_path / "run")
        made = trainer(
            tmp_path,
            logger=TickLogger(tmp_path / "run") if has_logger else False,
            callbacks=[callback, SaveFifth()][:: -1 if is_first else 1],
            accumulate_grad_batches=1,
            max_epochs=1,
        )
        made.fit(Adversarial(), loader(20), ckpt_path=checkpoint, weights_only=True)
        return made

    assert fit(None).global_step == 20
    path = tmp_path / "fifth.ckpt"
    saved = torch.load(path)
    assert saved["metronorm"] == {"tick": 5}
    if is_old:  # as before there was a number in it
        del saved["metronorm"]
        torch.save(saved, path)
    made = fit(path)
    made.save_checkpoint(tmp_path / "last.ckpt")
    run = open_run(tmp_path / "run")
    assert numbers(run) == [(int(tick > 5), tick) for tick in range(1, 11)]
    assert torch.load(tmp_path / "last.ckpt")["metronorm"] == {"tick": 10}


class Fail(Callback):
    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Any) -> None:
        if trainer.global_step == 4:
            raise KeyError("broken batch")


@pytest.mark.parametrize("alone", [True, False])
def test_an_exception_ends_the_run_with_its_name(tmp_path: Path, alone: bool) -> None:
    made = trainer(
        tmp_path,
        logger=None if alone else TickLogger(tmp_path / "run"),
        callbacks=[TickCallback(tmp_path / "run" if alone else None), Fail()],
    )
    if alone:
        made.loggers = []
    with pytest.raises(KeyError):
        made.fit(Module(), loader(10))
    run = open_run(tmp_path / "run")
    assert numbers(run) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert errors(run) == ["KeyError"]


def test_an_exception_with_the_logger_alone(tmp_path: Path) -> None:
    made = trainer(tmp_path, logger=TickLogger(tmp_path / "run"), callbacks=[Fail()])
    with pytest.raises(KeyError):
        made.fit(Module(), loader(10))
    run = open_run(tmp_path / "run")
    assert numbers(run) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert errors(run) == ["KeyError"]


def test_validations_inside_of_an_epoch(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        logger=TickLogger(tmp_path / "run"),
        callbacks=[TickCallback()],
        max_epochs=1,
        val_check_interval=3,  # batches: within the second window, and at its end
    )
    made.fit(Module(), loader(12), loader(4))
    rows = open_run(tmp_path / "run").ticks().rows()
    assert whole(rows)
    assert ticks_with(rows, "evaluate_ns") == ticks_with(rows, "val_loss") == [2, 3]


def test_manual_optimization(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        callbacks=[TickCallback(tmp_path / "run")],
        accumulate_grad_batches=1,
        max_epochs=1,
    )
    made.fit(Manual(), loader(8))
    rows = open_run(tmp_path / "run").ticks().rows()
    assert made.global_step == 4
    assert [(row["tick"], row["beats"]) for row in rows] == [(1, 2), (2, 2)]
    assert whole(rows)
    assert all(row["backward_ns"] and row["update_ns"] for row in rows)


def test_phases_of_the_user(tmp_path: Path) -> None:
    class Mine(Module):
        def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
            with self.logger.clock.phase("communicate"):
                return super().training_step(batch, number)

    logger = TickLogger(tmp_path / "run")
    logger.clock.event("sample", text="before")  # opens the run
    trainer(tmp_path, logger=logger, callbacks=[TickCallback()]).fit(Mine(), loader(4))
    rows = open_run(tmp_path / "run").ticks().rows()
    assert [row["tick"] for row in rows] == [1, 2]
    assert whole(rows)
    assert all(row["communicate_ns"] for row in rows)
    assert all(row["train_loss"] is not None for row in rows)


def test_a_directory_or_a_logger_and_not_both(tmp_path: Path) -> None:
    for options, got in [
        ({"callbacks": [TickCallback()]}, "neither"),
        (
            {
                "callbacks": [TickCallback(tmp_path / "a")],
                "logger": TickLogger(tmp_path / "b"),
            },
            "both",
        ),
    ]:
        with pytest.raises(ConfigError, match=got):
            trainer(tmp_path, **options).fit(Module(), loader(4))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_without_the_package() -> None:
    code = "import sys\nsys.modules['lightning'] = None\nimport metronorm.integrations.lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in done.stderr
    assert "pip install 'lightning>=2.5'" in done.stderr
