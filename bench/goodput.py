"""How much of the time of many processes makes progress, if they fail now and then.

A failure of any process ends the attempt of all. They start again, and do again what the newest
checkpoint does not have. Failures come at random, independent of each other (a Poisson process),
also while the training starts again. The simulation is compared with the interval that Young
(1974) derived, sqrt(2 * cost * time between failures), and its first-order goodput.

    python bench/goodput.py --checkpoint 0.5 --restart 60
"""

from __future__ import annotations

import argparse
import math
import random

HOURS = 50_000  # of one process, between two of its failures: about 6 years
PROCESSES = (8, 64, 512, 4096, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=float, default=0.5, help="seconds it stops training")
    parser.add_argument("--restart", type=float, default=60.0, help="seconds to the next tick")
    parser.add_argument("--hours", type=float, default=HOURS, help="between failures of a process")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| processes | between failures | best interval | goodput | simulated | at 10 min |")
    print("| --- | --- | --- | --- | --- | --- |")
    for processes in PROCESSES:
        failures = given.hours * 3600 / processes
        interval = best_interval(given.checkpoint, failures)
        costs = (given.checkpoint, given.restart, failures)
        simulated = [
            goodput(each, *costs, seconds=1000 * failures, seed=given.seed)
            for each in (interval, 600.0)
        ]
        print(
            f"| {processes:,} | {failures / 3600:,.1f} h | {interval:,.0f} s "
            f"| {predicted(interval, *costs):.2%} | {simulated[0]:.2%} | {simulated[1]:.2%} |"
        )


def best_interval(checkpoint: float, failures: float) -> float:
    """Young's interval between two checkpoints, in seconds.

    Args:
        checkpoint: seconds that one takes from the training.
        failures: mean seconds between two failures.
    """
    return math.sqrt(2 * checkpoint * failures)


def predicted(interval: float, checkpoint: float, restart: float, failures: float) -> float:
    """The share of time that makes progress, to first order in 1 / failures."""
    return 1 - checkpoint / (interval + checkpoint) - (interval / 2 + restart) / failures


def goodput(
    interval: float,
    checkpoint: float,
    restart: float,
    failures: float,
    *,
    seconds: float,
    seed: int,
) -> float:
    """The same share, simulated.

    Args:
        interval: seconds of training between two checkpoints.
        checkpoint: seconds that one takes from the training.
        restart: seconds from a failure to the next tick.
        failures: mean seconds between two failures.
        seconds: to simulate.
        seed: of the failures.
    """
    chance = random.Random(seed)
    now = kept = 0.0
    while now < seconds:
        until_failure = chance.expovariate(1 / failures)
        rounds = math.floor(max(0.0, until_failure - restart) / (interval + checkpoint))
        kept += rounds * interval
        now += until_failure
    return kept / now


if __name__ == "__main__":
    main()
