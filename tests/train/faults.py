"""A campaign of faults: a rank is harmed, the training goes on, and the judge is a run undisturbed.

    python -m tests.train.faults --faults 40 --seed 1      (--skip 10: all but the first ten)

Each fault is drawn by the seed: its kind, the rank, the tick and the phase, how the training is
shared, and on how many processes it then goes on. At its end the training must have the losses and
the weights of the undisturbed run, to rounding, and every tick once for every rank in it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.runs import open_run
from tests.train.fault_task import options
from tests.train.forked_ranks import Ended, Launch, Ranks, same
from tests.train.world_task import Net

ROUNDING = 1e-12
TICKS, EVERY = 12, 4
OPTIONS = {
    "ticks": str(TICKS),
    "evaluate_every": str(EVERY),
    "checkpoint_every": str(EVERY),
    "rank_timeout": "8",
}
KINDS = ("SIGKILL", "SIGTERM", "SIGTERM to all", "SIGSTOP", "raise", "memory", "full disk")
PHASES = ("data", "forward", "backward", "communicate", "update", "evaluate", "checkpoint")
# ticks in which every rank is in the phase
TICKS_OF = {"evaluate": (4, 8), "checkpoint": (5, 9)}


@dataclass(frozen=True)
class Fault:
    """What happens to which rank, and how the training goes on."""

    kind: str
    rank: int
    tick: int
    phase: str
    parallel: str
    world: int
    world_after: int
    optimizer: str

    @staticmethod
    def drawn(chance: random.Random) -> Fault:
        """Any one."""
        kind = chance.choice(KINDS)
        parallel = chance.choice(("ddp", "fsdp"))
        phase = "checkpoint" if kind == "full disk" else chance.choice(PHASES)
        world = chance.choice((2, 3))
        # under DDP the first rank writes for all
        rank = 0 if kind == "full disk" and parallel == "ddp" else chance.randrange(world)
        return Fault(
            kind=kind,
            rank=rank,
            tick=chance.choice(TICKS_OF.get(phase, range(2, TICKS))),
            phase=phase,
            parallel=parallel,
            world=world,
            world_after=chance.choice((1, 2, 3)),
            optimizer=chance.choice(("adamw", "ticks")),
        )


@dataclass(frozen=True)
class Result:
    """Losses by tick, and weights by name, at the end of a run."""

    losses: dict[int, float]
    weights: dict[str, torch.Tensor]


def result_of(run: Path) -> Result:
    """What a run has come to.

    Raises:
        AssertionError: a tick is missing, or is there twice.
    """
    losses: dict[int, float] = {}
    seen: dict[tuple[int, int], int] = {}
    first_ranks: dict[int, set[int]] = {}
    for row in open_run(run).ticks().rows():
        at = (row["tick"], row["rank"])
        seen[at] = seen.get(at, 0) + 1
        first_ranks.setdefault(row["tick"], set()).add(row["rank"])
        losses[row["tick"]] = row["loss"]
    twice = [at for at, number in seen.items() if number > 1]
    assert not twice, f"(tick, rank) twice in the history: {twice}"
    assert sorted(losses) == list(range(1, TICKS + 1)), f"ticks in the history: {sorted(losses)}"
    for tick, ranks in first_ranks.items():
        assert ranks == set(range(len(ranks))), f"tick {tick} has only ranks {sorted(ranks)}"
    model = Net().double()
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    assert found.tick == TICKS
    found.load_model(model)
    return Result(losses, {name: each.detach() for name, each in model.named_parameters()})


def difference(ours: Result, theirs: Result) -> float:
    """The largest, of all losses and weights, relative to one."""
    losses = [abs(ours.losses[tick] - loss) for tick, loss in theirs.losses.items()]
    weights = [
        float((ours.weights[name] - weight).abs().max()) for name, weight in theirs.weights.items()
    ]
    return max(*losses, *weights)


def train_on(
    ranks: Ranks, folder: Path, processes: int, optimizer: str, parallel: str, **environment: str
) -> Ended:
    """Begin a run, or go on with it, until its ranks end."""
    serial = len(list(folder.glob("said-*")))
    words = options(
        resume_or_start=str(folder / "run"),
        parallel=parallel,
        **OPTIONS,
        **{"optimizer.name": optimizer},
        **({"optimizer.clip": "0.0"} if optimizer == "ticks" else {}),
    )
    return ranks.run(
        Launch(same(["train", *words], processes), str(folder / f"said-{serial}"), environment)
    )


def undisturbed(ranks: Ranks, folder: Path, optimizer: str) -> Result:
    """The judge."""
    ended = train_on(ranks, folder, 1, optimizer, "ddp")
    assert ended.codes == [0], ended.said
    return result_of(folder / "run")


def check_end(fault: Fault, ended: Ended) -> None:
    """Whether all ranks have ended as they should, and the harmed one is named, once."""
    others = [code for rank, code in enumerate(ended.codes) if rank != fault.rank]
    mine = ended.codes[fault.rank]
    lines = [
        line
        for said in ended.said
        for line in said.splitlines()
        if line.startswith("metronorm train: ")
    ]
    said = "\n".join(ended.said)
    if fault.kind in ("full disk", "SIGTERM", "SIGTERM to all"):
        code = 0 if fault.kind == "full disk" else 128 + 15
        assert ended.codes == [code] * fault.world, (ended.codes, said)
        return
    expected = {"SIGKILL": -9, "SIGSTOP": -9, "raise": 1, "memory": 2}[fault.kind]
    assert (mine, others) == (expected, [2] * len(others)), (ended.codes, said)
    assert len(lines) == 1, said
    assert lines[0].startswith(f"metronorm train: rank {fault.rank} on "), said


def suffer(ranks: Ranks, folder: Path, fault: Fault, judge: Result, bug: str = "") -> float:
    """Harm a rank, go on, and compare.

    Args:
        ranks: to be harmed.
        folder: new.
        fault: what happens.
        judge: the undisturbed run.
        bug: planted into the library.

    Returns:
        Seconds from the harm to the end of the last rank that was not harmed.

    Raises:
        AssertionError: the ranks have not ended as they should, or it is not the same run.
    """
    folder.mkdir()
    harm: dict[str, Any] = {
        "rank": -1 if fault.kind == "SIGTERM to all" else fault.rank,
        "tick": fault.tick,
        "phase": fault.phase,
        "kind": fault.kind.partition(" to ")[0],
        "once": str(folder / "harmed"),
    }
    more = {"BUG": bug} if bug else {}
    ended = train_on(
        ranks, folder, fault.world, fault.optimizer, fault.parallel,
        FAULT=json.dumps(harm), **more,
    )  # fmt: skip
    assert (folder / f"harmed-{fault.rank}").exists(), "\n".join(ended.said)
    check_end(fault, ended)
    begun = float((folder / f"harmed-{fault.rank}").read_text())
    others = [moment for rank, moment in enumerate(ended.times) if rank != fault.rank]
    if ended.codes != [0] * fault.world:
        ended = train_on(
            ranks, folder, fault.world_after, fault.optimizer, fault.parallel, **more
        )  # fmt: skip
        assert ended.codes == [0] * fault.world_after, "\n".join(ended.said)
    found = difference(result_of(folder / "run"), judge)
    assert found <= ROUNDING, f"not the undisturbed run: a difference of {found:.1e}"
    return max(others) - begun


def main() -> int:
    """Run the campaign; 1 if a fault has changed a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="faults that are drawn only")
    parser.add_argument("--bug", default="", help="to plant: see fault_task.py")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    red, seconds = 0, dict[str, list[float]]()
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    with Ranks() as ranks:
        judges = {}
        for optimizer in ("adamw", "ticks"):
            folder = base / optimizer
            folder.mkdir()
            judges[optimizer] = undisturbed(ranks, folder, optimizer)
        for number in range(asked.faults):
            fault = Fault.drawn(chance)
            if number < asked.skip:
                continue
            begun = time.monotonic()
            try:
                took = suffer(ranks, base / str(number), fault, judges[fault.optimizer], asked.bug)
                seconds.setdefault(fault.kind, []).append(took)
                shutil.rmtree(base / str(number))
                outcome = f"ended in {took:.1f} s"
            except AssertionError as error:
                red += 1
                outcome = f"RED: {error}"
            whole = time.monotonic() - begun
            print(f"{number:3} {fault} {whole:.0f} s in all: {outcome}", flush=True)
    for kind, each in sorted(seconds.items()):
        ordered = sorted(each)
        print(
            f"{kind:15} {len(each):3} faults, the others ended after "
            f"{ordered[len(each) // 2]:.1f} s (median), {ordered[-1]:.1f} s (the longest)"
        )
    print(f"{asked.faults - asked.skip} faults, {red} red")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
