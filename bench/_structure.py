"""Small GPTs that differ in their norms, in their place, and in depth and width, at equal FLOPs."""

from __future__ import annotations

import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from _rows import append
from _tuning import NAME, quietly, scaled
from torch import nn

from metronorm.data import TextConfig
from metronorm.models import GPT, GPTConfig
from metronorm.models.gpt import Attention, Mlp
from metronorm.norm import LayerNorm, RMSNorm
from metronorm.tasks import text
from metronorm.tune.rate import climbed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

HEAD = 16  # elements of each head
MOST_RATES = 4  # three, and one more where the best of them is the first or the last


class Variant(NamedTuple):
    """A structure.

    Attributes:
        norm: layer, rms or none.
        place: before each sub-layer (pre), after its residual (post), or before it and at its end
            (sandwich).
    """

    norm: str = "layer"
    place: str = "pre"
    layers: int = 4
    width: int = 64

    @property
    def name(self) -> str:
        """As rows have it."""
        return f"norm {self.norm}, {self.place}, {self.layers} layers of {self.width}"


VARIANTS = [
    *(Variant(norm, place) for norm in ("layer", "rms") for place in ("pre", "post", "sandwich")),
    Variant("none"),
    *(Variant(layers=layers, width=width) for layers, width in ((1, 128), (2, 96), (8, 48))),
]


class PlacedBlock(nn.Module):
    """x + f(x) for both sub-layers, with norms at a place."""

    def __init__(self, config: GPTConfig, layer: int, variant: Variant) -> None:
        super().__init__()
        norms = [make_norm(variant.norm, config.width) for _ in range(4)]
        self.place = variant.place
        self.attention, self.mlp = Attention(config, layer), Mlp(config)
        self.norms = nn.ModuleList(norms if variant.place == "sandwich" else norms[:2])

    def forward(
        self, x: Tensor, stream: None, rotary: Any, cache: Any, visible: Any = None
    ) -> tuple[Tensor, None]:
        """The residual stream after the block, (batch, time, width)."""
        x = self._added(x, 0, lambda x: self.attention(x, rotary, cache, visible))
        return self._added(x, 1, self.mlp), stream

    def _added(self, x: Tensor, number: int, layer: Callable[[Tensor], Tensor]) -> Tensor:
        norm = self.norms[number]
        if self.place == "post":
            return cast("Tensor", norm(x + layer(x)))
        if self.place == "sandwich":
            return x + cast("Tensor", self.norms[2 + number](layer(norm(x))))
        return x + layer(norm(x))


class Placed(GPT):
    """A GPT of such blocks. A norm after the last block is there where none is at its end."""

    def __init__(self, config: GPTConfig, variant: Variant) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(
            PlacedBlock(config, layer, variant) for layer in range(config.layers)
        )
        last: Any = Alone("none" if variant.place == "post" else variant.norm, config.width)
        self.norm = last
        self.reset_parameters()


class Alone(nn.Module):
    """A norm in the place of one that also adds."""

    def __init__(self, norm: str, width: int) -> None:
        super().__init__()
        self.norm = make_norm(norm, width)

    def forward(self, x: Tensor, stream: None) -> tuple[Tensor, None]:
        """The norm of x, and no stream."""
        return self.norm(x), stream


def make_norm(kind: str, width: int) -> nn.Module:
    """A norm; `none` leaves all as it is."""
    kinds: dict[str, type[nn.Module]] = {
        "layer": LayerNorm,
        "rms": RMSNorm,
        "none": nn.Identity,
    }
    return kinds[kind](width)


def flops(config: GPTConfig) -> int:
    """Of a token, forward and backward, of all matrix products."""
    matrices = 12 * config.layers * config.width**2 + config.vocab_size * config.width
    return 6 * matrices + 6 * config.layers * config.context * config.width  # half of the pairs


def structure(ticks: int, seeds: int, variants: Sequence[Variant] = VARIANTS) -> None:
    """Train each variant at the best of its rates, and with more seeds at that rate."""
    for variant in variants:
        with tempfile.TemporaryDirectory() as folder:
            measure(variant, ticks, seeds, Path(folder))


def measure(variant: Variant, ticks: int, seeds: int, folder: Path) -> None:
    """Append the rows of a variant."""
    config = config_of(variant, ticks)

    def loss(factor: float, seed: int = 0) -> float:
        changed = replace(scaled(config, factor), seed=seed)
        run = folder / f"{factor:.3g}-{seed}"
        outcome = quietly(changed, run, 10**6, task=lambda config: task(config, variant))
        found = outcome.measures["loss"] if outcome else math.inf
        print(f"{variant.name}: {factor:.3g} {seed}: {found:.4f}", flush=True)
        return float(found)

    rates = climbed(loss, most=MOST_RATES)
    best = min(rates, key=lambda factor: rates[factor])
    losses = [rates[best], *(loss(best, seed) for seed in range(1, seeds))]
    case = f"structure, {ticks} ticks: {variant.name}"
    append(NAME, f"{case}, rate", "times that of quick", [best])
    append(NAME, f"{case}, ticks", "1", [config.ticks])
    append(NAME, case, "nats per character", [statistics.fmean(losses)])
    append(NAME, f"{case}, deviation over seeds", "nats per character", [statistics.stdev(losses)])


def config_of(variant: Variant, ticks: int) -> text.Config:
    """The training of a variant: as many FLOPs as the first one has in so many ticks."""

    def shape(each: Variant) -> GPTConfig:
        heads = each.width // HEAD
        return GPTConfig(
            vocab_size=65, context=64, layers=each.layers, heads=heads, width=each.width
        )

    config = text.training_preset("quick")
    return replace(
        config,
        text=TextConfig(tokenizer="char"),
        model=shape(variant),
        batch_size=8,
        ticks=round(ticks * flops(shape(VARIANTS[0])) / flops(shape(variant))),
        evaluate_every=10**6,
        checkpoint_every=10**6,
        sample_every=0,
        evaluate_tokens=16_384,
        precision="fp32",
        allocator="system",
    )


def task(config: text.Config, variant: Variant) -> Any:
    """The text task with the model of a variant."""
    made = text.task(config)
    return replace(made, model=lambda: Placed(made.config.model, variant))
