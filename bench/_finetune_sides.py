"""One side of `finetune.py`, in a process of its own: it trains a tick whenever it is told to.

    python _finetune_sides.py NAME MODEL ROWS RATE TICKS SEED

ROWS is a file with `ids`, int32 (rows, tokens), `answers`, which of them are answers, the `beats`
of a tick, of one row each, and how many rows at the end are `held_out`. On standard input, each
line lets one tick run. On standard output, each tick is a line of JSON with the largest memory and
the processors' seconds of the process so far. The last line has the loss on the rows held out.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metronorm.memory import peak_bytes

# What is chosen of each side. Of Trainer and TRL, all else is as they have it by default.
PEERS: dict[str, dict[str, Any]] = {
    "trainer": {"optim": "adamw_torch_fused", "bf16": True},
    "trainer-checkpointing": {
        "optim": "adamw_torch_fused",
        "bf16": True,
        "gradient_checkpointing": True,
    },
    "trainer-adafactor": {"optim": "adafactor", "bf16": True, "gradient_checkpointing": True},
    "trainer-bf16": {"optim": "adamw_torch_fused", "gradient_checkpointing": True},
    "trl": {"optim": "adamw_torch_fused"},
    "trl-fast": {"optim": "adamw_torch_fused", "gradient_checkpointing": False},
    "trl-adafactor": {"optim": "adafactor"},
    "trainer-lora": {"optim": "adamw_torch_fused", "bf16": True},
    "trl-lora": {"optim": "adamw_torch_fused"},
    "trl-lora-fast": {"optim": "adamw_torch_fused", "gradient_checkpointing": False},
}
OURS: dict[str, dict[str, Any]] = {
    "ours": {"way": "full", "optimizer": "ticks_sign"},
    "ours-momentum-0.9": {"way": "full", "optimizer": "ticks_sign", "momentum": 0.9},
    "ours-bf16": {"way": "full", "optimizer": "ticks_sign", "body": "bf16"},
    "ours-bf16-checkpointing": {
        "way": "full",
        "optimizer": "ticks_sign",
        "body": "bf16",
        "activation_checkpointing": True,
    },
    "ours-adamw": {"way": "full", "optimizer": "adamw"},
    # of these two the losses are compared and not the speed, so any processor will do
    "ours-fp32": {"way": "full", "optimizer": "adamw", "precision": "fp32"},
    # the mean of the beats' means
    "ours-fp32-means": {"way": "full", "optimizer": "adamw", "precision": "fp32"},
    "ours-lora": {"way": "lora", "body": "bf16"},
    "ours-norm": {"way": "norm", "body": "bf16"},
}


def main() -> None:
    name, model, file, rate, ticks, seed = sys.argv[1:]
    data = Data(np.load(file), int(seed))
    train = train_ours if name in OURS else train_peer
    train(name, model, data, float(rate), int(ticks))


class Data:
    """Rows to train on in a random order, and rows held out."""

    def __init__(self, rows: Any, seed: int) -> None:
        ids, answers, self.beats = rows["ids"], rows["answers"], int(rows["beats"])
        end = len(ids) - int(rows["held_out"])
        order = np.random.default_rng(seed).permutation(end)
        self.ids, self.answers = ids[order], answers[order]
        self.held_out = ids[end:], answers[end:]


def report(**values: Any) -> None:
    """A line for the process that compares, after which it is waited for."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu, peak = used.ru_utime + used.ru_stime, peak_bytes() / 2**20
    print(json.dumps({"peak": peak, "cpu": cpu, **values}), file=OUT, flush=True)
    sys.stdin.readline()


def train_peer(name: str, model: str, data: Data, rate: float, ticks: int) -> None:
    import torch

    # most of what they have is no name that a type checker knows; each side loads what it needs
    datasets: Any = importlib.import_module("datasets")
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    chosen = dict(PEERS[name])
    dtype = torch.bfloat16 if name == "trainer-bf16" or "lora" in name else torch.float32
    net = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    labels = np.where(data.answers, data.ids, -100)
    rows = datasets.Dataset.from_dict({"input_ids": data.ids.tolist(), "labels": labels.tolist()})
    config: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": data.beats,
        "max_steps": ticks,
        "learning_rate": rate,
        "warmup_steps": max(1, ticks // 10),
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
        **chosen,
    }

    class Told(transformers.TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            report(ready=True)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **more: Any) -> None:
            if "loss" in logs:
                report(loss=float(logs["loss"]))

    arguments: dict[str, Any] = {"model": net, "train_dataset": rows, "callbacks": [Told()]}
    if "lora" in name:
        peft: Any = importlib.import_module("peft")
        lora = peft.LoraConfig(
            r=16, lora_alpha=16, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        if name.startswith("trl"):
            arguments["peft_config"] = lora
        else:
            arguments["model"] = peft.get_peft_model(net, lora)
    if name.startswith("trl"):
        trl: Any = importlib.import_module("trl")
        trainer = trl.SFTTrainer(
            args=trl.SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **config),
            processing_class=transformers.AutoTokenizer.from_pretrained(model),
            **arguments,
        )
    else:
        trainer = transformers.Trainer(
            args=transformers.TrainingArguments(**config),
            data_collator=transformers.default_data_collator,
            **arguments,
        )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    report(held_out=held_out_loss(trainer.model, data))


def train_ours(name: str, model: str, data: Data, rate: float, ticks: int) -> None:
    from metronorm.finetune import AdaptConfig, DataConfig, defaults
    from metronorm.finetune.examples import Examples, Texts
    from metronorm.finetune.ledger import Ledger
    from metronorm.finetune.preparing import Prepared
    from metronorm.finetune.task import Read, count_tokens, task_of
    from metronorm.finetune.vocabulary import load_vocabulary
    from metronorm.train import train
    from metronorm.train.task import Hook

    chosen = dict(OURS[name])
    way, body = chosen.pop("way"), chosen.pop("body", "fp32")
    config = defaults("text", AdaptConfig(way=way, body=body), chosen.pop("optimizer", "adamw"))
    momentum = chosen.pop("momentum", config.optimizer.momentum)
    precision = chosen.pop("precision", "bf16")
    config = replace(
        config,
        model=model,
        data=DataConfig(data=(__file__,)),  # a name only: the rows are given
        ticks=ticks,
        optimizer=replace(config.optimizer, learning_rate=rate, momentum=momentum),
        evaluate_every=ticks + 1,
        checkpoint_every=ticks + 1,
        precision=precision,
        micro_batches=data.beats,
        **chosen,
    )
    weights = data.answers.astype(np.float32)
    ends = (np.arange(len(data.ids)) + 1) * data.ids.shape[1]
    zeros = np.zeros(len(data.ids), dtype=np.int32)
    lines = np.arange(1, len(data.ids) + 1)
    texts = Texts(data.ids.reshape(-1), ends, ("rows",), zeros, lines)
    prepared = Prepared(Examples(texts, weights.reshape(-1)), None, Ledger())
    nets: list[Any] = []

    def task(config: Any) -> Any:
        made = task_of(config, Read(prepared, load_vocabulary(model), data.ids.shape[1]))

        def tell(moment: Any) -> None:
            report(tick=moment.clock.tick)
            if moment.clock.tick == ticks:
                nets.append(moment.model)

        def make() -> Any:
            net = made.model()
            report(ready=True)
            return net

        if name.endswith("means"):
            made = replace(
                made,
                loss=lambda net, batch: net(batch) / count_tokens(batch),
                count=lambda batch: 1,
            )
        return replace(made, model=make, hooks=[*made.hooks, Hook(1, tell)])

    with tempfile.TemporaryDirectory() as folder:
        train(task, config, Path(folder) / "run")
        report(held_out=held_out_loss(nets[0].model, data, precision))


def held_out_loss(net: Any, data: Data, precision: str = "bf16") -> float:
    """Nats per answer token of the rows held out, by the model's own forward pass."""
    import torch
    from torch.nn import functional

    total, count = 0.0, 0
    net.eval()
    for ids, answers in zip(*data.held_out, strict=True):
        tokens = torch.from_numpy(ids.astype(np.int64))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            logits = net(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
        counts = torch.from_numpy(answers[1:])
        losses = functional.cross_entropy(logits, tokens[1:], reduction="none")
        total, count = total + float(losses[counts].double().sum()), count + int(counts.sum())
    return total / count


if __name__ == "__main__":
    OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no line of ours
    main()
