"""Whether a metric is the better the lower it is, or the higher.

The first row that holds decides:

| the metric | is better |
| --- | --- |
| is the measure that the config calls `best`, on any data and of any average | by `best_mode` |
| is a loss, by its name | lower |
| has a word of `_LOWER` or `_HIGHER` in its name | lower, or higher |
| any other | not known |
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Direction = Literal["lower", "higher"]

# what an evaluation puts before the names of its measures
EVALUATED = ("validation_", "test_", "val_", "eval_")
_AVERAGES = ("_ema", "_last")
_MODES: dict[str, Direction] = {"min": "lower", "max": "higher"}
_LOWER = {"error", "perplexity", "ppl", "nll", "mse", "mae", "rmse", "cer", "wer", "fid"}
_HIGHER = {
    "accuracy", "acc", "auc", "auroc", "f1", "precision", "recall", "ndcg", "mrr", "bleu", "rouge",
    "psnr", "ssim", "iou", "dice", "reward",
}  # fmt: skip


def is_loss(metric: str) -> bool:
    """Whether a metric is a loss, by its name."""
    return metric.endswith("loss") or "loss_per" in metric


def is_evaluated(metric: str) -> bool:
    """Whether a metric was measured on data that the model was not trained on, by its name."""
    return metric.startswith(EVALUATED)


def better(metric: str, config: Mapping[str, Any]) -> Direction | None:
    """Whether a metric is better if it is lower, or higher; None: not known.

    Args:
        metric: its name.
        config: of the run; a training's has `best` and `best_mode`.
    """
    name, best, mode = _measure(metric), config.get("best"), config.get("best_mode")
    if (
        isinstance(best, str)
        and isinstance(mode, str)
        and name == _measure(best)
        and mode in _MODES
    ):
        return _MODES[mode]
    if is_loss(name):
        return "lower"
    words = set(re.split(r"[\W_]+", name.lower()))
    found: list[Direction] = ["lower"] * bool(words & _LOWER)
    found += ["higher"] * bool(words & _HIGHER)
    return found[0] if len(found) == 1 else None


def _measure(metric: str) -> str:
    """The name of the measure: of `validation_accuracy_ema` it is `accuracy`."""
    for prefix in EVALUATED:
        metric = metric.removeprefix(prefix)
    for average in _AVERAGES:
        metric = metric.removesuffix(average)
    return metric
