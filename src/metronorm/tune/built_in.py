"""Spaces that are there for every preset, and for every other training: where good values lie.

Learning rates reach a factor of ten (AdamW) or eight (Muon) to both sides of the default. The
schedule is in none of them: so all trials of a length are at equal anneal at every tick, and can be
compared in mid-run (`stopping.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.tune.options import options_of
from metronorm.tune.space_file import space_from

if TYPE_CHECKING:
    from metronorm.train.config import TrainConfig
    from metronorm.tune.space import Space

_AROUND, _AROUND_MUON = 10.0, 8.0


def built_in(config: TrainConfig, *, structure: bool = False) -> Space:
    """The space of a config: learning rates, decay, momentum; on wish the model's structure.

    Args:
        config: of any training.
        structure: for a GPT: the kind of norm and of the feed-forward sub-layer, and shapes of
            about as many operations.
    """
    optimizer, muon = config.optimizer, config.optimizer.name == "ticks_muon"
    found: dict[str, Any] = {
        "optimizer.learning-rate": _around(optimizer.learning_rate, _AROUND),
        "optimizer.weight-decay": {"uniform": [0.0, 0.3]},
    }
    if muon:
        rate = optimizer.matrix_learning_rate
        found["optimizer.matrix-learning-rate"] = _around(rate, _AROUND_MUON)
    if "ticks" in optimizer.name and optimizer.name != "ticks_adam":
        found["optimizer.momentum"] = {"uniform": [0.85, 0.98]}
    known = options_of(type(config))
    if structure and "model.layers" in known:
        found |= _structure(config)
    return space_from(found, type(config), "the built-in space")


def _around(value: float, factor: float) -> dict[str, list[float]]:
    return {"log": [float(f"{value / factor:.3g}"), float(f"{value * factor:.3g}")]}


def _structure(config: Any) -> dict[str, Any]:
    """Kind of norm and activation; depth and width at about equal operations.

    The linear layers of a GPT take 24 layers * width² operations for a token, forward and back.
    """
    model = config.model
    size = model.width // model.heads
    shapes = []
    for layers in sorted({max(1, model.layers // 2), model.layers, 2 * model.layers}):
        exact = model.width * (model.layers / layers) ** 0.5
        width = max(size, round(exact / size) * size)
        shapes.append({"model.layers": layers, "model.width": width, "model.heads": width // size})
    return {
        "model.norm": {"choices": ["layer", "rms"]},
        "model.mlp": {"choices": [*dict.fromkeys((model.mlp, "gelu", "swiglu"))]},
        "shape": {"choices": shapes},
    }
