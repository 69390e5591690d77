"""Fine-tuning in the one loop: what is trained, resumed, evaluated, saved and proven."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
import transformers

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.cli import main
from metronorm.errors import ConfigError, DataError, DivergenceError
from metronorm.finetune import finetune
from metronorm.finetune.config import Config, defaults
from metronorm.finetune.data_config import DataConfig
from metronorm.finetune.evaluating import Results, compare
from metronorm.finetune.exporting import check_form
from metronorm.finetune.finishing import finish
from metronorm.finetune.head import compute_features, solve
from metronorm.finetune.pretrained import load
from metronorm.finetune.row_sums import row_sums
from metronorm.finetune.task import load_adapted, order_of, read, shared_head, task, task_of
from metronorm.finetune.tuned_run import load_tuned
from metronorm.finetune.ways import AdaptConfig
from metronorm.finetune.writing import Writer
from metronorm.runs import open_run
from metronorm.train import train
from tests.finetune.pretrained_files import save
from tests.finetune.tiny import build
from tests.train.forked_ranks import Launch, Ranks, same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.finetune.data_config import TaskName
    from metronorm.finetune.ways import Way

pytestmark = pytest.mark.usefixtures("forked_proofs")

CHAT_WAYS: tuple[Way, ...] = ("full", "lora", "norm")


def chats(path: Path, rows: int = 40) -> Path:
    """Conversations whose answer repeats a word of the prompt."""
    chance = np.random.default_rng(0)
    lines = []
    for _ in range(rows):
        words = [f"w{number}" for number in chance.integers(3, 60, chance.integers(2, 6))]
        messages = [
            {"role": "user", "content": " ".join(words)},
            {"role": "assistant", "content": words[0]},
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines))
    return path


def texts(path: Path, rows: int = 240) -> Path:
    """Texts whose label is that of their words."""
    chance = np.random.default_rng(1)
    lines = ["text,label"]
    for row in range(rows):
        kind = row % 3
        words = chance.integers(3 + 3 * kind, 6 + 3 * kind, 5)
        lines.append(f"{' '.join(f'w{number}' for number in words)},{'abc'[kind]}")
    path.write_text("\n".join(lines))
    return path


def config_of(folder: Path, kind: TaskName, way: Way, **more: Any) -> Config:
    base = folder / "base"
    if not base.exists():
        save(base, "llama") if kind == "chat" else _encoder(base)
    data = chats(folder / "chats.jsonl") if kind == "chat" else texts(folder / "texts.csv")
    found = defaults(kind, AdaptConfig(way=way, rank=2))
    options = {
        "model": str(base),
        "data": DataConfig(data=(str(data),), validation=0.25),
        "ticks": 1 if way == "head" else 6,
        "evaluate_every": 3,
        "checkpoint_every": 3,
        "precision": "fp32",
        "keep": 10,
    }
    return replace(found, **options | more)


def _encoder(base: Path) -> None:
    build("bert").bert.save_pretrained(base)
    from tests.finetune.pretrained_files import tokenizer

    tokenizer().save_pretrained(base)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in open_run(run).ticks().rows()]


@pytest.mark.parametrize("way", CHAT_WAYS)
def test_a_resumed_run_is_the_run(tmp_path: Path, way: Way) -> None:
    config = config_of(tmp_path, "chat", way)
    train(task, config, tmp_path / "whole")
    train(task, config, tmp_path / "parts")
    # as after a kill: what came after tick 3 is gone
    (tmp_path / "parts" / "checkpoints" / "tick-00000006").rename(tmp_path / "gone")
    train(task, config, tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, other = (load_tuned(tmp_path / name, best=False) for name in ("whole", "parts"))
    trained = other.adapted.parameters()
    assert trained
    for name, each in one.adapted.parameters().items():
        assert torch.equal(each, trained[name]), name


@pytest.mark.parametrize("way", CHAT_WAYS)
def test_a_checkpoint_holds_what_trains(tmp_path: Path, way: Way) -> None:
    config = config_of(tmp_path, "chat", way, ticks=3)
    train(task, config, tmp_path / "run")
    found = newest_checkpoint(tmp_path / "run" / "checkpoints")
    adapted = load_tuned(tmp_path / "run").adapted
    found.check_parameters(adapted.trained)
    before = load_adapted(config, ()).parameters()
    moved = [not torch.equal(each, before[name]) for name, each in adapted.parameters().items()]
    assert all(moved)
    assert (way == "full") == (adapted.trained == adapted.total)


def test_the_loss_is_that_of_plain_transformers(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "full", ticks=1)
    data = read(config)
    train(lambda config: task_of(config, data), config, tmp_path / "run")
    plain = transformers.AutoModelForCausalLM.from_pretrained(config.model).eval()
    order = order_of(config, data.prepared.train, data)
    total, count = 0.0, 0
    for number in order.chosen(0, config.micro_batches * config.batch_size).tolist():
        example = data.prepared.train[number]
        ids = torch.tensor(example.ids[None].astype(np.int64))
        labels = torch.where(torch.tensor(example.weights[None]) > 0, ids, -100)
        answers = int((labels[:, 1:] >= 0).sum())
        total += float(plain(input_ids=ids, labels=labels).loss.detach()) * answers
        count += answers
    assert losses(tmp_path / "run")[0] == pytest.approx(total / count, rel=1e-5)


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "lora", ticks=3)
    train(task, config, tmp_path / "run")
    other = tmp_path / "other"
    model = save(other, "llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    model.save_pretrained(other)
    with pytest.raises(DataError, match="the base model that it began with"):
        train(task, replace(config, model=str(other), ticks=6), tmp_path / "run", resume=True)
    moved = tmp_path / "moved"
    Path(config.model).rename(moved)
    with pytest.raises(DataError):
        load_tuned(tmp_path / "run")
    train(task, replace(config, model=str(moved), ticks=6), tmp_path / "run", resume=True)
    assert load_tuned(tmp_path / "run").config.model == str(moved)


def test_a_head_is_the_optimum_on_features_of_the_frozen_body(tmp_path: Path) -> None:
    config = config_of(tmp_path, "classify", "head", adapt=AdaptConfig(way="head", l2=1e-2))
    train(task, config, tmp_path / "run")
    tuned = load_tuned(tmp_path / "run").adapted
    model = tuned.pretrained.model
    data = read(config)
    batches = list(order_of(config, data.prepared.train, data).once(7))
    labels = torch.cat([torch.as_tensor(batch["labels"]) for batch in batches])
    best = solve(compute_features(model, batches), labels, 3, l2=1e-2)
    torch.testing.assert_close(model.classifier.weight.double(), best.weight, atol=1e-5, rtol=1e-4)
    (row,) = open_run(tmp_path / "run").ticks().rows()
    assert row["features_ns"] > 0
    assert row["head_l2"] == 1e-2


@pytest.mark.parametrize("way", ["lora", "full"])
def test_a_new_head_is_solved_before_the_body_trains(tmp_path: Path, way: Way) -> None:
    config = config_of(tmp_path, "classify", way, ticks=20)
    train(task, config, tmp_path / "run")
    first, *rest = open_run(tmp_path / "run").ticks().rows()
    assert first["head_l2"] > 0
    assert first["loss"] < 0.9  # log(3) = 1.1 is chance
    assert not any(row["head_l2"] for row in rest)
    saved = finish(tmp_path / "run", read(config), form="model").directory
    again = replace(config, model=str(saved), ticks=2)
    train(task, again, tmp_path / "again")
    assert not any(row.get("head_l2") for row in open_run(tmp_path / "again").ticks().rows())


def test_short_runs_begin_with_the_head_of_the_whole_training(tmp_path: Path) -> None:
    """It is that of a training without short runs, and it is solved once."""
    config = config_of(tmp_path, "classify", "lora", ticks=20)
    data = read(config)
    head = shared_head(config)
    for name, ticks in (("short", 2), ("shared", 20)):
        train(
            lambda config: task_of(config, data, head=head),
            replace(config, ticks=ticks),
            tmp_path / name,
        )
    train(lambda config: task_of(config, data), config, tmp_path / "alone")
    assert losses(tmp_path / "shared") == losses(tmp_path / "alone")
    rows = [open_run(tmp_path / name).ticks().rows()[0] for name in ("short", "shared")]
    assert [("features_ns" in row, row["head_l2"] > 0) for row in rows] == [
        (True, True),
        (False, True),
    ]


@pytest.mark.parametrize("way", ["lora", "norm+head", "full"])
def test_a_classifier_learns_and_is_proven(tmp_path: Path, way: Way) -> None:
    config = config_of(tmp_path, "classify", way, ticks=30, evaluate_every=30)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-3))
    data = read(config)
    train(lambda config: task_of(config, data), config, tmp_path / "run")
    found = finish(tmp_path / "run", data)
    loss = found.figures[0]
    assert loss.is_better
    assert loss.found.after < 0.9 < loss.found.before  # log(3) = 1.1 is chance
    assert found.proof.agreement == 1
    card = (found.directory / "README.md").read_text()
    assert "Before and after" in card
    assert "all that was read" in card


def test_rows_are_evaluated_as_plain_transformers_does(tmp_path: Path) -> None:
    config = config_of(tmp_path, "chat", "norm")
    data = read(config)
    adapted = load_adapted(config, ())
    held_out = data.prepared.validation
    sums = row_sums(adapted, order_of(config, held_out, data).once(2))
    plain = transformers.AutoModelForCausalLM.from_pretrained(config.model).eval()
    assert len(sums) == len(held_out)
    for row, example in zip(sums, held_out, strict=True):
        ids = torch.tensor(example.ids[None].astype(np.int64))
        with torch.no_grad():
            logs = plain(input_ids=ids).logits[0, :-1].log_softmax(-1)
        counts = torch.tensor(example.weights[1:]) > 0
        right = logs.gather(1, ids[0, 1:, None]).squeeze(1)
        assert row[0] == pytest.approx(-float(right[counts].sum()), rel=1e-4)
        assert row[1] == int(counts.sum())
        assert row[2] == int((logs.argmax(1) == ids[0, 1:])[counts].sum())
    (loss, perplexity, _) = compare(Results(sums), Results(sums), causal=True)
    assert loss.found.change == 0
    assert perplexity.found.before == pytest.approx(math.exp(loss.found.before))


def test_the_command(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config_of(tmp_path, "chat", "norm")
    (tmp_path / "chats").mkdir()  # a folder of the data's name is no run of that name
    options = ["--way", "norm", "--ticks", "4", "--validation", "0.25", "--precision", "fp32"]
    code = main(["finetune", "base", "chats.jsonl", *options, "--optimizer.learning-rate", "0.05"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "saved and proven: runs/chats-norm/model" in said.out
    assert "loss, nats per answer token" in said.out
    assert (tmp_path / "runs/chats-norm/model/adapter_model.safetensors").exists()
    assert main(["finetune", "base", "chats.jsonl", "--check"]) == 0
    assert "all that was read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finetune"], "needs a pretrained model"),
        (["finetune", "base"], "needs a pretrained model, and data"),
        (["finetune", "nowhere", "chats.jsonl"], "nowhere"),
        (["finetune", "base", "nothing.jsonl"], "nothing.jsonl"),
        (["finetune", "base", "chats.jsonl", "--way", "head"], "is for task classify"),
        (["finetune", "base", "chats.jsonl", "--way", "heads"], "heads"),
        (["finetune", "base", "chats.jsonl", "--context", "1000"], "at most what the model"),
        (["finetune", "base", "chats.jsonl", "--task", "classify"], "got 'llama', which is for a"),
        (
            ["finetune", "base", "chats.jsonl", "--validation-data", "chats.jsonl"],
            "none of 40 rows in",
        ),
        (["finetune", "base", "chats.jsonl", "--run", "chats.jsonl"], "chats.jsonl, a file"),
        (["finetune", "base/config.json", "chats.jsonl"], "got the file"),
        (["finetune", "base", "chats.jsonl", "--trust-remote-code"], "is not offered: a model's"),
        (["evaluate", "base", "chats.jsonl", "--validation", "0.1"], "takes all rows of DATA"),
        (["evaluate", "base", "chats.jsonl", "--class-weights", "balanced"], "are for training"),
        (["chat", "base", "--trust_remote_code"], "is not offered: a model's own code could"),
        (["finetune", "base", "chats.jsonl", "--general", "nothing.txt"], "nothing.txt"),
        (["finetune", "base", "chats.jsonl", "--general", "chats.jsonl"], "the task text must"),
        (["finetune", "base", "chats.jsonl", "--stops", "-1"], "stops must be"),
        (
            ["finetune", "base", "chats.jsonl", "--save", "nothing", "--fail-unless-better"],
            "got --save nothing",
        ),
        (
            ["finetune", "base", "chats.jsonl", "--way", "full", "--save", "adapter"],
            "got --way full; try: --save model",
        ),
        (
            ["finetune", "base", "chats.jsonl", "--class-weights", "balanced"],
            "is for classify; got",
        ),
        (["finetune", "base", "chats.jsonl", "--l2", "0.1"], "l2 is for classify; got l2=0.1"),
        (["finetune", "base", "chats.jsonl", "--recipe", "a.py"], "is for metronorm train"),
        (["finetune", "base", "chats.jsonl", "--rank", "1000"], "where the widest layer has rank"),
        (
            ["finetune", "base", "chats.jsonl", "--task", "classify", "--general", "chats.jsonl"],
            "general is for chat and text; got general=(",
        ),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    config_of(tmp_path, "chat", "norm")
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_run_is_evaluated_on_other_rows_and_talked_with(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, "chat", "full", ticks=40, evaluate_every=40)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=0.01))
    train(task, config, tmp_path / "run")
    chats(tmp_path / "more.jsonl", rows=60)
    capsys.readouterr()
    arguments = ["evaluate", str(tmp_path / "run"), str(tmp_path / "more.jsonl")]
    assert main([*arguments, "--fail-unless-better"]) == 0
    assert "loss, nats per answer token" in capsys.readouterr().out
    assert main(["evaluate", config.model, str(tmp_path / "more.jsonl")]) == 0
    assert "before" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("w5 w9\nw7\n\nw4 w4\n"))
    assert main(["chat", str(tmp_path / "run"), "--temperature", "0", "--tokens", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["sample", str(tmp_path / "run"), "--prompt", "w5 w6", "--tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("w5 w6")


def test_what_is_written_is_what_transformers_generates(tmp_path: Path) -> None:
    save(tmp_path / "base", "llama")
    pretrained = load(tmp_path / "base", "causal")
    model, tokenizer = pretrained.model, pretrained.tokenizer
    ids = tokenizer("w5 w9 w11", return_tensors="pt")["input_ids"]
    model.generation_config.eos_token_id = 2
    expected = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    said = "".join(Writer(pretrained).write("w5 w9 w11", max_tokens=20, temperature=0))
    kept = [token for token in expected.tolist() if token != 2]
    assert said == tokenizer.decode(kept)


def test_a_model_learns_to_stop_and_what_it_forgets_is_measured(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config_of(tmp_path, "chat", "full")
    general = "\n\n".join(" ".join(f"w{n % 57 + 3}" for n in range(9)) for _ in range(300))
    (tmp_path / "general.txt").write_text(general)
    options = "--way full --ticks 60 --validation 0.25 --precision fp32 --stops 7 --general"
    learning = ["--optimizer.learning-rate", "0.02", "--fail-unless-better"]
    code = main(["finetune", "base", "chats.jsonl", *options.split(), "general.txt", *learning])
    said = capsys.readouterr()
    assert code == 0, said.err
    (stopped,) = (line.split() for line in said.out.splitlines() if "that stop" in line)
    assert stopped[:5] == ["answers", "that", "stop,", "of", "7"]
    assert float(stopped[5]) < 0.5 < float(stopped[6])
    (forgotten,) = (line.split() for line in said.out.splitlines() if "general" in line)
    assert float(forgotten[4]) < float(forgotten[5])  # and the exit code is still 0
    card = (tmp_path / "runs/chats-full/model/README.md").read_text()
    assert "answers that stop" in card
    assert "perplexity of general text" in card
    rows = ["evaluate", "runs/chats-full", "chats.jsonl"]
    assert main([*rows, "--stops", "3", "--general", "general.txt"]) == 0
    found = capsys.readouterr().out
    assert "answers that stop, of 3" in found
    assert " ".join(forgotten[4:6]) in " ".join(found.split())
    assert main([*rows, "--stops", "0"]) == 0
    assert "stop" not in capsys.readouterr().out
    # texts without prompts are no answers
    assert main(["evaluate", "base", "general.txt", "--task", "text"]) == 0
    assert "stop" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks("metronorm.finetune.task", "transformers.modeling_utils") as found:
        yield found


# a launcher starts the first of them, as from the command line; the others' processes are forked
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "way", "parallel"),
    [
        ("chat", "lora", "fsdp"),
        ("chat", "full", "fsdp"),
        ("chat", "norm", "ddp"),
        ("classify", "full", "fsdp"),
    ],
)
def test_two_processes_make_the_same_ticks(
    tmp_path: Path, ranks: Ranks, kind: TaskName, way: Way, parallel: Any
) -> None:
    config = config_of(tmp_path, kind, way)
    config = replace(config, batch_size=4, micro_batches=4)
    train(task, config, tmp_path / "alone")
    options = ["--way", way, "--rank", "2", "--validation", "0.25", "--precision", "fp32"]
    options += ["--ticks", "6", "--checkpoint-every", "3", "--keep", "9", "--parallel", parallel]
    options += ["--batch-size", "4", "--micro-batches", "4", "--evaluate-every", "3"]
    options += ["--run", str(tmp_path / "both"), "--task", kind]
    command = ["finetune", config.model, *config.data.data, *options]
    if way == "lora":
        whole = [sys.executable, "-m", "metronorm", *command, "--processes", "2"]
        ended = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert "saved and proven" in ended.stdout
    else:
        words = same([*command, "--save", "nothing"], 2)
        forked = ranks.run(Launch(words, str(tmp_path / "said")))
        assert forked.codes == [0, 0], "\n".join(forked.said)
    rows = open_run(tmp_path / "both").ticks().rows()
    for rank in (0, 1):
        found = [row["loss"] for row in rows if row["rank"] == rank]
        assert found == pytest.approx(losses(tmp_path / "alone"), rel=1e-5, abs=1e-5)
    shutil.rmtree(tmp_path / "both" / "checkpoints" / "tick-00000006")
    train(task, config, tmp_path / "both", resume=True)  # one process goes on where two were
    newest = open_run(tmp_path / "both").ticks().rows()[-1]
    assert newest["loss"] == pytest.approx(losses(tmp_path / "alone")[-1], rel=1e-5, abs=1e-5)


def test_a_loss_that_is_not_finite_names_its_rows(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path, "chat", "full", ticks=8)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30, warmup=0.0))
    with pytest.raises(DivergenceError) as caught:
        finetune(config, tmp_path / "run")
    data = read(config)
    order = order_of(config, data.prepared.train, data)
    assert caught.value.tick is not None
    number = order.chosen((caught.value.tick - 1) * 4, 4)[0]
    assert f"its rows are chats.jsonl {data.prepared.train[number].line}" in str(caught.value)


def test_an_adapter_that_its_base_model_cannot_take_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = config_of(tmp_path, "classify", "lora")
    pooling = Path(config.model) / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text('{"pooling_mode_mean_tokens": true}')
    monkeypatch.chdir(tmp_path)
    options = ["--task", "classify", "--save", "adapter"]
    assert main(["finetune", config.model, "texts.csv", *options]) == 2
    assert "base, which gets one more, for the mean of a text's tokens" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="which gets one more"):
        finetune(config, tmp_path / "run", form="adapter")
    assert not (tmp_path / "run").exists()
    # a model that has a head already, or of another kind, gets none
    build("bert").save_pretrained(config.model)
    check_form(config, "adapter")
    build("modernbert").model.save_pretrained(config.model)
    check_form(config, "adapter")


def test_a_run_that_goes_on_saves_beside_what_it_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = config_of(tmp_path, "chat", "norm", ticks=3)
    assert finetune(config, tmp_path / "run").directory.name == "model"
    more = finetune(replace(config, ticks=6), tmp_path / "run", resume=True)
    assert more.directory.name in ("model-3", "model-6")  # of the best checkpoint
    assert more.proof is not None
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    # it has ended, and is saved in another form
    assert main(["finetune", "--resume", "run", "--save", "model"]) == 0
    assert "shards" not in capsys.readouterr().err
    assert (tmp_path / "run" / f"{more.directory.name}-2").is_dir()
    saved = sorted(tmp_path.glob("run/model*"))
    # what is there already is not saved again
    assert finetune(replace(config, ticks=6), tmp_path / "run", resume=True) == more._replace(
        outcome=ANY, proof=ANY
    )
    assert sorted(tmp_path.glob("run/model*")) == saved


def test_a_file_of_options_starts_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_of(tmp_path, "chat", "norm")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "options.toml").write_text(
        'model = "base"\nticks = 3\nprecision = "fp32"\nadapt = {way = "norm"}\n'
        'data = {data = ["chats.jsonl"], validation = 0.25}\n'
    )
    save_nothing = ["--save", "nothing"]
    assert main(["finetune", "--config", "../options.toml", "--run", "one", *save_nothing]) == 0
    assert main(["finetune", "--config", "one/config.toml", "--run", "two", *save_nothing]) == 0
    assert losses(Path("one")) == losses(Path("two"))
