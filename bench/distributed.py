"""What the one loop does, and costs, on many processes of one machine (gloo, one thread each).

| part | what is measured |
| --- | --- |
| gradients | from 20 saved states of a small GPT, one tick each: how far the window's gradient on 1 to 4 processes is from that of one; and how far one update is, by AdamW and by TicksMuon |
| losses | the preset `quick`, its windows cut in two beats: the loss after some ticks, over seeds, on one process and on two |
| overhead | a tick beside the same work in a loop written by hand with DDP or FSDP2, in turns, in the same two processes |
| costs | bytes that a rank sends in a tick, and its peak memory beside what it has at rest, with Ticks and, by hand, with AdamW and SGD |

On two cores more than two processes share them: nothing here is timed on more than two. Other work
on the machine moves times, so they are medians of turns, and ratios are taken within a turn.

python bench/distributed.py [gradients] [losses] [overhead] [costs] [--ticks 200] [--rounds 20]
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _rows import append
from safetensors.torch import load_file

NAME = "distributed"
RANKS = Path(__file__).with_name("_distributed_ranks.py")
COSTS = [
    ("by hand", "adamw"),
    ("by hand", "sgd"),
    ("loop", "adamw"),
    ("loop", "ticks"),
]


def main() -> None:
    parts = {"gradients": gradients, "losses": losses, "overhead": overhead, "costs": costs}
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=", ".join(parts))
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    for name in arguments.parts or parts:
        parts[name](arguments)


def launch(world: int, part: str, folder: Path, *words: str) -> list[Any]:
    """What the processes of a world print, by rank, as JSON in their last line."""
    with tempfile.TemporaryDirectory() as meeting:
        started = [
            subprocess.Popen(
                [
                    sys.executable,
                    str(RANKS),
                    *(part, str(rank), str(world), f"{meeting}/store", str(folder), *words),
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            said = [process.communicate()[0] for process in started]
        finally:
            for process in started:
                process.kill()
    if any(process.returncode for process in started):
        raise SystemExit(f"{part} on {world} processes failed")
    return [json.loads(text.strip().rpartition("\n")[2] or "null") for text in said]


def gradients(arguments: argparse.Namespace) -> None:
    """Relative differences, in the 2-norm over all parameters, to one process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        launch(1, "states", folder)
        launch(1, "gradients", folder)
        alone = {path.name.partition("-")[2]: path for path in folder.glob("1-ddp-*.safetensors")}
        for world in (2, 3, 4):
            launch(world, "gradients", folder)
            for parallel in ("ddp", "fsdp"):
                for case, path in alone.items():
                    case = case.removeprefix("ddp-")
                    found = load_file(folder / f"{world}-{parallel}-{case}")
                    _append_differences(f"{world} processes, {parallel}", case, path, found)


def _append_differences(where: str, case: str, path: Path, found: dict[str, Any]) -> None:
    expected, what = load_file(path), case.removesuffix(".safetensors").replace("-", ", ")
    differences = [
        float((found[key].double() - value.double()).norm() / value.double().norm())
        for key, value in expected.items()
    ]
    append(NAME, f"{what}, {where}, from one process", "relative difference", differences)
    append(NAME, f"{what}, {where}, largest of 20", "relative difference", [max(differences)])


def losses(arguments: argparse.Namespace) -> None:
    """The validation loss after some ticks, over seeds, and how far two worlds are apart."""
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for optimizer in ("ticks_muon", "adamw"):
        for where, world, parallel in (
            ("1 process", 1, "ddp"),
            ("2 processes, ddp", 2, "ddp"),
            ("2 processes, fsdp", 2, "fsdp"),
        ):
            seeds = range(arguments.seeds if optimizer == "ticks_muon" else 1)
            of = found.setdefault((optimizer, where), {})
            with tempfile.TemporaryDirectory() as name:
                for seed in seeds:
                    words = [parallel, optimizer, str(arguments.ticks), str(seed)]
                    of[seed] = launch(world, "losses", Path(name), *words)[0]
            case = f"quick, {optimizer}, {where}, loss after {arguments.ticks} ticks"
            append(NAME, case, "nats per token", [each["validation"] for each in of.values()])
            alone = found[optimizer, "1 process"]
            if world == 1:
                continue
            apart = [abs(of[seed]["validation"] - alone[seed]["validation"]) for seed in of]
            append(NAME, f"{case}, apart from 1 process, same seed", "nats per token", apart)
            for tick in sorted({1, min(10, arguments.ticks), arguments.ticks}):
                far = [
                    abs(of[s]["losses"][tick - 1] / alone[s]["losses"][tick - 1] - 1) for s in of
                ]
                append(NAME, f"quick, {optimizer}, {where}, loss of tick {tick}, apart from "
                       "1 process", "relative difference", far)  # fmt: skip
    ends = [each["validation"] for each in found["ticks_muon", "1 process"].values()]
    spread = statistics.stdev(ends)
    append(NAME, "quick, ticks_muon, 1 process, standard deviation over seeds",
           "nats per token", [spread])  # fmt: skip


def overhead(arguments: argparse.Namespace) -> None:
    """Milliseconds of a tick in both loops, in turns, and their ratio."""
    for parallel in ("ddp", "fsdp"):
        with tempfile.TemporaryDirectory() as name:
            found = launch(2, "overhead", Path(name), parallel, str(arguments.rounds))[0]
        for who in ("loop", "by hand"):
            append(NAME, f"0.8 M, 2 processes, {parallel}, {who}, a tick", "ms", found[who])
        ratios = [ours / theirs for ours, theirs in zip(*found.values(), strict=True)]
        append(NAME, f"0.8 M, 2 processes, {parallel}, loop over by hand", "ratio", ratios)


def costs(arguments: argparse.Namespace) -> None:
    """Bytes and memory of a rank, each in two fresh processes."""
    for parallel in ("ddp", "fsdp"):
        for who, optimizer in COSTS:
            with tempfile.TemporaryDirectory() as name:
                found = launch(2, "costs", Path(name), parallel, who, optimizer)
            case = f"10 M, 2 processes, {parallel}, {optimizer}, {who}"
            for unit, key in (("MB sent in a tick by a rank", "sent"), ("MiB", "peak")):
                what = "" if key == "sent" else ", peak memory of a rank over its start"
                append(NAME, f"{case}{what}", unit, [each[key] for each in found])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
