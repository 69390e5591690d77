import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from metronorm.errors import ConfigError, RunError
from metronorm.integrations.transformers import TickCallback
from metronorm.runs import open_run

from .runs import errors, events, numbers, ticks_with, whole

SIZES = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(before)
    logging.enable_progress_bar()


class Text(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, rows: int) -> None:
        self.tokens = torch.randint(20, (rows, 8), generator=torch.Generator().manual_seed(rows))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[row], "labels": self.tokens[row]}


def trainer(folder: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    """Nine batches an epoch, in windows of two: ten ticks in its two epochs."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM")
    )
    arguments = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "logging_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    } | options
    eval_dataset = arguments.pop("eval_dataset", Text(4))
    return Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=Text(18),
        eval_dataset=eval_dataset,
        callbacks=list(callbacks),
    )


def by_tick(history: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """What the Trainer itself keeps of the metrics, in the form of the record."""
    found: dict[int, dict[str, float]] = {}
    for entry in history:
        if "train_loss" not in entry:
            metrics = {name: value for name, value in entry.items() if name != "step"}
            found.setdefault(entry["step"], {}).update(metrics)
    return found


def test_every_optimizer_step_is_a_tick(tmp_path: Path) -> None:
    trained = trainer(
        tmp_path,
        TickCallback(tmp_path / "run", config={"note": "mine"}),
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=4,
        include_num_input_tokens_seen="all",
        hub_token="secret",
    )
    trained.train()
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert [row["tick"] for row in rows] == list(range(1, 11))
    assert [row["beats"] for row in rows] == [2, 2, 2, 2, 1] * 2
    assert [row["tokens"] for row in rows] == [32, 32, 32, 32, 16] * 2
    assert whole(rows)
    assert all(row["data_ns"] and row["forward_backward_ns"] and row["update_ns"] for row in rows)
    assert ticks_with(rows, "evaluate_ns") == [3, 6, 9, 10]
    assert ticks_with(rows, "checkpoint_ns") == [4, 8, 10]
    reported = by_tick(trained.state.log_history)
    assert sorted(reported) == [2, 3, 4, 6, 8, 9, 10]
    for tick, metrics in reported.items():
        assert {name: rows[tick - 1][name] for name in metrics} == metrics
    for row in rows:
        assert (row["loss"] is not None) == (row["tick"] % 2 == 0)
        assert row["epoch"] == pytest.approx(
            min(row["tick"] / 4.5, 1 + (row["tick"] - 5) / 4.5), abs=0.12
        )
    config = run.info.config
    assert config["learning_rate"] == trained.args.learning_rate
    assert config["note"] == "mine"
    assert "secret" not in str(config)
    assert "hub_token" not in config
    assert [tick for _, tick, _ in events(run, "checkpoint")] == [4, 8, 10]
    ((_, tick, fields),) = events(run, "trained")
    assert tick == 10
    assert fields["values"]["train_loss"] == trained.state.log_history[-1]["train_loss"]
    assert errors(run) == [None]


def test_values_of_an_epochs_end_are_under_its_last_tick(tmp_path: Path) -> None:
    """Two sets to evaluate on: one event of the Trainer's after the other."""
    trained = trainer(
        tmp_path,
        TickCallback(tmp_path / "run"),
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        eval_on_start=True,
        eval_dataset={"near": Text(4), "far": Text(6)},
    )
    trained.train()
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert len(rows) == 10
    assert whole(rows)
    reported = by_tick(trained.state.log_history)
    assert sorted(reported) == [0, 5, 10]
    early = events(run, "logged")
    assert [tick for _, tick, _ in early] == [0, 0]
    assert "eval_near_loss" in early[0][2]["values"]
    for tick in (5, 10):
        assert {"loss", "eval_near_loss", "eval_far_loss"} <= reported[tick].keys()
        assert {name: rows[tick - 1][name] for name in reported[tick]} == reported[tick]
    for name in ("evaluate_ns", "checkpoint_ns", "loss", "eval_far_loss"):
        assert ticks_with(rows, name) == [5, 10]


def test_a_checkpoint_that_the_best_is_saved_to(tmp_path: Path) -> None:
    trained = trainer(
        tmp_path,
        TickCallback(tmp_path / "run"),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="best",
        metric_for_best_model="eval_loss",
        learning_rate=1e-2,
    )
    trained.train()
    rows = open_run(tmp_path / "run").ticks().rows()
    assert whole(rows)
    saved = {int(path.name.split("-")[1]) for path in (tmp_path / "out").glob("checkpoint-*")}
    assert saved
    assert set(ticks_with(rows, "checkpoint_ns")) == saved
    assert ticks_with(rows, "evaluate_ns") == [2, 4, 6, 8, 10]


class Fail(TrainerCallback):
    def __init__(self, event: str, step: int) -> None:
        self.step = step
        setattr(self, event, self.fail)

    def fail(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyError("broken batch")


def test_a_resume_from_a_checkpoint_is_a_new_attempt(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    stopped = trainer(tmp_path, TickCallback(tmp_path / "run"), Fail("on_substep_end", 6), **saving)
    with pytest.raises(KeyError):
        stopped.train()
    run = open_run(tmp_path / "run")
    assert numbers(run) == [(0, tick) for tick in range(1, 7)]
    resumed = trainer(tmp_path, TickCallback(tmp_path / "run"), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert run.attempts == [0, 1]
    assert numbers(run) == [(int(tick > 4), tick) for tick in range(1, 11)]
    reported = by_tick(resumed.state.log_history)  # with those of the first attempt
    for row in run.ticks().rows():
        assert row["loss"] == reported.get(row["tick"], {}).get("loss")
    assert len(run.ticks("full").rows()) == 12


def test_a_smaller_batch_size_begins_a_new_attempt(tmp_path: Path) -> None:
    """Memory is too small twice, the second time in the midst of the training."""

    class TooSmall(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if (state.train_batch_size, state.global_step) in ((8, 0), (7, 1)):
                raise RuntimeError("CUDA out of memory.")

    callback = TickCallback(tmp_path / "run")
    options = {"auto_find_batch_size": True, "gradient_accumulation_steps": 1, "logging_steps": 1}
    trained = trainer(
        tmp_path,
        callback,
        TooSmall(),
        per_device_train_batch_size=8,
        num_train_epochs=1,
        **options,
    )
    trained.train()
    run = open_run(tmp_path / "run")
    steps = trained.state.global_step
    assert numbers(run) == [(len(run.attempts) - 1, tick) for tick in range(1, steps + 1)]
    reported = by_tick(trained.state.log_history)
    assert [row["loss"] for row in run.ticks().rows()] == [
        reported[tick]["loss"] for tick in range(1, steps + 1)
    ]
    trained.train()  # a second training counts on
    assert run.ticks().rows()[-1]["tick"] == 2 * steps


def test_a_new_training_needs_a_new_directory(tmp_path: Path) -> None:
    callback = TickCallback(tmp_path / "run")
    with pytest.raises(ConfigError, match="while it trains"):
        _ = callback.clock
    trainer(tmp_path, callback, max_steps=2).train()
    with pytest.raises(RunError, match="needs a directory of its own"):
        trainer(tmp_path, TickCallback(tmp_path / "run"), max_steps=1).train()


def test_a_second_training_continues_the_run(tmp_path: Path) -> None:
    callback = TickCallback(tmp_path / "run")
    trained = trainer(tmp_path, callback, max_steps=2)
    trained.train()
    trained.evaluate()  # outside of a training: not recorded
    trained.train()
    trainer(tmp_path, TickCallback(tmp_path / "run", resume=True), max_steps=1).train()
    assert numbers(open_run(tmp_path / "run")) == [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)]


def test_an_exception_keeps_the_run(tmp_path: Path) -> None:
    """No callback hears of it: the end is written when the callback is used again."""
    callback, fail = TickCallback(tmp_path / "run"), Fail("on_pre_optimizer_step", 3)
    trained = trainer(tmp_path, callback, fail)
    with pytest.raises(KeyError):
        trained.train()
    run = open_run(tmp_path / "run")
    assert [row["tick"] for row in run.ticks().rows()] == [1, 2, 3]
    assert errors(run) == []
    trained.remove_callback(fail)
    trained.train()
    assert errors(run) == ["RunError", None]
    assert len(run.ticks().rows()) == 13


def test_metrics_and_phases_of_the_user(tmp_path: Path) -> None:
    callback = TickCallback(tmp_path / "run")

    class Mine(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with callback.clock.phase("inspect"):
                callback.clock.log(steps=state.global_step)

    trainer(tmp_path, callback, Mine(), max_steps=3).train()
    rows = open_run(tmp_path / "run").ticks().rows()
    assert whole(rows)
    assert [row["steps"] for row in rows] == [0, 1, 2]
    assert all(row["inspect_ns"] for row in rows)


def test_without_the_package() -> None:
    code = """
import sys
sys.modules["transformers"] = None
import metronorm.clock, metronorm.integrations
assert "torch" not in sys.modules
import metronorm.integrations.transformers
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in done.stderr
    assert "pip install 'transformers>=5'" in done.stderr
