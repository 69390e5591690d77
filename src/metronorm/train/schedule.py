"""The learning rate as a function of the tick: no state, so a resumed run continues by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metronorm.train.config import OptimizerConfig


def learning_rate_factor(config: OptimizerConfig, tick: int, ticks: int) -> float:
    """What the highest learning rate is multiplied by at tick `tick` (from 1) of `ticks`.

    Rises linearly over the warm-up. Then `cosine` follows half a cosine down to the final share;
    `wsd` (warm-up, stable, decay: Hu et al., 2024, arXiv:2404.06395) stays and comes down linearly
    over its last stretch; `constant` stays.
    """
    warmup = math.ceil(config.warmup * ticks)
    if tick <= warmup:
        return tick / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        done = (tick - warmup) / max(1, ticks - warmup)
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        left = min(1.0, (ticks - tick) / max(1, math.ceil(config.decay * ticks)))
    return config.final + (1 - config.final) * left
