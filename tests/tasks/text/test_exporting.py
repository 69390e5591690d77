"""The model of a run in Hugging Face layout: compared by a fresh process, or not there."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from metronorm.cli import export
from metronorm.errors import CheckpointError, ConfigError, RunError
from metronorm.models import load_gpt
from metronorm.tasks.text import exporting, load_model, task
from metronorm.tasks.text.sampling import load_model_and_tokenizer
from metronorm.train import train
from tests.train.tiny import tiny_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("trained")
    config = tiny_config(folder)
    config = replace(config, ticks=2, ema=0.5)
    train(task, config, folder / "run")
    return folder / "run"


def test_the_command_writes_what_transformers_loads(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "models" / "tiny"
    assert export.main([str(run), str(target), "--format", "huggingface"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"the model is in {target}; its logits in transformers ")
    model, tokenizer = load_model_and_tokenizer(run)
    ids = tokenizer.encode("abc de fa")[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(target)
    logits = theirs(torch.from_numpy(ids)).logits
    assert torch.allclose(logits, model(torch.from_numpy(ids)), rtol=0, atol=1e-5)
    reader = transformers.AutoTokenizer.from_pretrained(target)
    assert reader("abc de fa").input_ids == ids[0].tolist()
    assert json.loads((target / "config.json").read_text())["model_type"] == "gpt_neox"


def test_an_average_of_the_weights_is_exported(run: Path, tmp_path: Path) -> None:
    arguments = [str(run), str(tmp_path / "ema"), "--format", "huggingface", "--weights", "ema"]
    assert export.main(arguments) == 0
    exported = load_gpt(tmp_path / "ema").tokens.weight
    assert torch.equal(exported, load_model(run, average="ema").tokens.weight)
    assert not torch.equal(exported, load_model(run).tokens.weight)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--layout", "llama"], ConfigError, "llama cannot express norm='layer'"),
        (["--weights", "last"], CheckpointError, "last"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    arguments: list[str], error: type[Exception], message: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export.main([str(run), str(tmp_path / "new"), "--format", "huggingface", *arguments])
    assert not any(tmp_path.iterdir())


def test_a_target_is_new(run: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(RunError, match="new target"):
        export.main([str(run), str(tmp_path), "--format", "huggingface"])
    with pytest.raises(RunError, match="must be writable"):
        export.main([str(run), str(tmp_path / "kept" / "new"), "--format", "huggingface"])
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_model_that_comes_back_as_another_one_is_no_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(model: Any, directory: Path, **options: Any) -> None:
        other = copy.deepcopy(model)
        other.norm.weight.data *= 1.01
        save(other, directory, **options)

    save = exporting.save_gpt
    monkeypatch.setattr(exporting, "save_gpt", damaged)
    with pytest.raises(CheckpointError, match=r"the same in transformers; got logits"):
        exporting.export_model(run, tmp_path / "new")
    assert not any(tmp_path.iterdir())
