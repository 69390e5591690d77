"""The memory of a fine-tuning: foreseen, measured, and kept within a limit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from metronorm.cli import main
from metronorm.errors import ConfigError, OutOfMemoryError
from metronorm.finetune.config import Config
from metronorm.finetune.fitting import _activations, _choose, choices, least
from metronorm.finetune.task import order_of, read, task, task_of
from metronorm.memory import peak_bytes
from metronorm.planning import plan
from metronorm.planning.forecasting import resting
from metronorm.runs import open_run
from metronorm.runs.events import read_events
from metronorm.train import train
from metronorm.train.preparing import Preparation
from tests.finetune.test_finetune import config_of, losses

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process holds")


def forecast(run: Path) -> dict[str, Any]:
    (event,) = read_events(open_run(run).events(), "event = 'forecast'")
    return event.fields


def test_choices_are_the_same_ticks(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "lora", batch_size=6, micro_batches=2)
    found = list(choices(config))
    assert all(each.batch_size * each.micro_batches == 12 for each in found)
    assert found[0] == config
    assert [each.batch_size for each in found[:4]] == [6, 3, 1, 1]
    assert found[-1] == least(config)
    assert (found[-1].batch_size, found[-1].activation_checkpointing) == (1, True)
    assert [each.activation_checkpointing for each in found] == sorted(
        each.activation_checkpointing for each in found
    )
    again = replace(config, activation_checkpointing=True, loss_chunk=64)
    assert {each.activation_checkpointing for each in choices(again)} == {True}
    assert {each.loss_chunk for each in choices(again)} == {64, 16}
    assert {each.loss_chunk for each in choices(replace(config, task="classify"))} == {0}


def test_the_largest_batch_is_as_large_as_any(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "lora", context=16)
    data = read(config)
    order: Any = order_of(config, data.prepared.train, data)
    sizes = [len(order.take(first, 2)["ids"]) for first in range(order.examples_per_epoch)]
    assert len(order.largest(2)["ids"]) >= max(sizes)
    (tmp_path / "classes").mkdir()
    config = config_of(tmp_path / "classes", "classify", "full")
    data = read(config)
    rows: Any = order_of(config, data.prepared.train, data)
    widths = [rows.take(first, 4)["ids"].shape[1] for first in range(rows.examples_per_epoch)]
    assert rows.largest(4)["ids"].shape == (4, max(widths))
    assert rows.largest(1000)["ids"].shape == (1000, max(widths))


@pytest.mark.parametrize("way", ["full", "lora", "norm"])
def test_a_forecast_is_on_record_beside_the_peak(
    tmp_path: Path, way: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, "chat", way, ticks=3)
    train(task, config, tmp_path / "run")
    found = forecast(tmp_path / "run")
    parts = {name: each for name, each in found.items() if name != "memory_bytes"}
    assert found["memory_bytes"] >= sum(parts.values())
    assert parts["parameters_bytes"] > 4 * 60 * 32
    trained = task(config).model()
    trained_bytes = sum(each.nbytes for each in trained.parameters() if each.requires_grad)
    assert parts["gradients_bytes"] == trained_bytes
    assert parts["optimizer_bytes"] == 2 * trained_bytes  # of AdamW
    assert "by forecast" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "run"), "--no-charts"]) == 0
    assert ", forecast" in capsys.readouterr().out


def test_sums_that_are_gradients_are_counted_once(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "full", ticks=3)
    for clip, state in ((0.0, 0), (1.0, 1)):
        optimizer = replace(config.optimizer, name="ticks_sign", clip=clip)
        run = tmp_path / str(clip)
        train(task, replace(config, optimizer=optimizer), run)
        found = forecast(run)
        assert found["optimizer_bytes"] == state * found["gradients_bytes"]


def test_what_is_chosen_fits(tmp_path: Path) -> None:
    whole = config_of(tmp_path, "chat", "full", ticks=2, batch_size=8, micro_batches=1)
    train(task, whole, tmp_path / "whole")
    limited = replace(whole, memory="100GiB")
    train(task, limited, tmp_path / "limited")
    assert losses(tmp_path / "limited") == losses(tmp_path / "whole"), "all fits: as it was asked"
    found = plan(task, limited)
    assert found.forecast_bytes is not None
    assert found.forecast_bytes <= 90 << 30


def test_less_memory_has_the_same_ticks_and_is_kept_on_resume(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "full", ticks=2, context=64, batch_size=8)
    config = replace(config, micro_batches=1)
    train(task, config, tmp_path / "whole")
    small = least(config)
    train(task, small, tmp_path / "small")
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    data = read(config)
    train(
        lambda config: task_of(config, data, resume=True),
        replace(small, ticks=3, memory="100GiB"),
        tmp_path / "small",
        resume=True,
    )
    events = read_events(open_run(tmp_path / "small").events(), "event = 'resume'")
    (changed,) = [event.fields["changed"] for event in events]
    assert not any("batch" in str(each) or "chunk" in str(each) for each in changed)


def test_the_fastest_that_fits_is_chosen(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "norm", context=64, batch_size=4, micro_batches=2)
    data = read(config)
    order: Any = order_of(config, data.prepared.train, data)
    ready = Preparation(task_of(config, data), config)
    found = resting(ready)
    assert found is not None
    rest = replace(found, process=peak_bytes() + 2**30)  # more than is held before

    def needed(choice: Config) -> int:
        made = _activations(ready, order, choice, None)
        assert made
        return rest.with_beats(made, choice.micro_batches).total

    def chosen(limit: int) -> Config:
        assert _choose(ready, rest, order, config, limit).total <= limit
        assert isinstance(ready.step.config, Config)
        return ready.step.config

    each = [needed(choice) for choice in choices(config)]
    assert chosen(each[0]) == config
    for limit in {*each[1:], max(each) - 1}:
        expected = next(
            choice for choice, bytes_ in zip(choices(config), each, strict=True) if bytes_ <= limit
        )
        assert chosen(limit) == expected
    with pytest.raises(OutOfMemoryError, match=r"at least .*--way lora") as caught:
        chosen(min(each) - 1)
    assert "parameters" in str(caught.value)
    assert "process" in str(caught.value)


def test_less_than_the_process_holds_is_refused_before_anything_is_tried(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "full", memory="50MiB")
    with pytest.raises(OutOfMemoryError, match=r"to load the model and its data, and 45 MiB"):
        train(task, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["3", "-1GiB", "much", "0GiB", "3iB", "1e9", ""])
def test_a_limit_is_a_size(tmp_path: Path, text: str) -> None:
    if text in ("3", ""):  # three bytes; none
        config_of(tmp_path, "chat", "lora", memory=text)
        return
    with pytest.raises(ConfigError, match="a size of memory"):
        config_of(tmp_path, "chat", "lora", memory=text)


HELD = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from metronorm.finetune.task import task
from metronorm.memory import peak_bytes
from metronorm.train import train
from tests.finetune.test_fitting import forecast, large

run = Path(sys.argv[2]) / sys.argv[3]
train(task, large(Path(sys.argv[2]), sys.argv[3]), run)
print(forecast(run)["memory_bytes"], peak_bytes())
"""


def large(folder: Path, way: Any) -> Any:
    """A model of 28 million parameters, in which tensors take as much as the libraries."""
    import transformers

    config = config_of(folder, "chat", way, ticks=3, evaluate_every=2, context=64)
    base = folder / "large"
    if not base.exists():
        sizes: dict[str, Any] = {
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
        }
        transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=20_000, num_attention_heads=8, tie_word_embeddings=True, **sizes
            )
        ).save_pretrained(base)
        from tests.finetune.pretrained_files import tokenizer

        tokenizer().save_pretrained(base)
    return replace(config, model=str(base), allocator="system")  # `keep` leaves larger holes


@pytest.mark.parametrize("way", ["full", "lora"])
def test_the_peak_is_what_was_foreseen(tmp_path: Path, way: str) -> None:
    large(tmp_path, way)
    root = __file__.rpartition("/tests/")[0]
    done = subprocess.run(
        [sys.executable, "-c", HELD, root, str(tmp_path), way],
        check=True,
        capture_output=True,
        text=True,
    )
    foreseen, peak = map(int, done.stdout.split()[-2:])
    assert foreseen == pytest.approx(peak, rel=0.1), np.divide((foreseen, peak), 2**20)
