"""`observe`: statistics of the norm layers of a model, as plain numbers, every N ticks."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metronorm.errors import ConfigError
from metronorm.norm.add_norm import AddLayerNorm, AddRMSNorm
from metronorm.norm.composed import stats_dtype, wide_dtype
from metronorm.norm.layer_norm import LayerNorm
from metronorm.norm.layer_norm_2d import LayerNorm2d
from metronorm.norm.rms_norm import RMSNorm
from metronorm.scalars import as_integer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

_OF_INPUT = ("mean", "std", "rstd", "rstd_max")
_OF_GAMMA = ("gamma", "gamma_min", "gamma_max")

_log = logging.getLogger("metronorm")


class NormObserver:
    """Collects statistics of the norm layers of a model; `observe` makes it and shows its use.

    Attributes:
        every: the ticks that are multiples of this are observed.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self.every = every
        self._model = model
        self._seen: dict[str, _Seen] = {}
        self._handles: list[RemovableHandle] = []
        self._warned = False

    @contextlib.contextmanager
    def at(self, tick: int) -> Iterator[None]:
        """Observe every forward pass inside the block, if `tick` is a multiple of `every`.

        Raises:
            ConfigError: it is called inside another such block.
        """
        if self._handles:
            raise ConfigError("one tick must end before the next is observed", got=f"tick {tick}")
        self._seen = {}
        if tick % self.every:
            yield
            return
        try:
            for name, module in norms_of(self._model):
                seen = self._seen[name] = _Seen()
                self._handles.append(module.register_forward_hook(seen, with_kwargs=True))
            yield
        except BaseException:
            self._seen = {}
            raise
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles = []
        if not self._warned and not any(seen.rows for seen in self._seen.values()):
            self._warned = True
            _log.warning(
                "no norm of the observed model ran in tick %d; a model compiled by torch.compile "
                "cannot be observed: call the model itself in this tick",
                tick,
            )

    def numbers(self) -> dict[str, float]:
        """The numbers of the last tick by name, `norm.LAYER.NUMBER`; {} if it was not observed.

        Only this call waits for a GPU.
        """
        by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
        for layer, seen in self._seen.items():
            for name, value in seen.tensors().items():
                full = ".".join(part for part in ("norm", layer, name) if part)
                by_device.setdefault(value.device, []).append((full, value))
        numbers: dict[str, float] = {}
        for device, pairs in by_device.items():
            values = torch.stack([value.to(stats_dtype(device)) for _, value in pairs])
            numbers |= zip((name for name, _ in pairs), values.tolist(), strict=True)
        return numbers


def observe(model: nn.Module, every: int = 100) -> NormObserver:
    """Statistics of a model's norm layers at every `every`-th tick, ready for `clock.log`.

        norms = observe(model)
        for tick in clock.ticks(range(1, 1001)):
            with norms.at(tick):
                loss = train_step(model)
            clock.log(**norms.numbers())

    Our layers, `torch.nn.LayerNorm` and `torch.nn.RMSNorm` are observed; `replace_norms` replaces
    many others by ours. A row is what is normalized together: the last dimensions of x, the
    channels of a pixel, in `AddLayerNorm` the last dimensions of the sum. The numbers are averages
    over all rows of all forward passes of the tick, with padding, in float32 or float64:

    | number | what it is | how to read it |
    |---|---|---|
    | `mean` | average of the rows' absolute mean | far above `std`: the stream drifts |
    | `std` | average of the rows' standard deviation (biased) | grows along a pre-norm stream |
    | `rstd` | average of the factor that rows are multiplied by | gradients of x scale with it |
    | `rstd_max` | largest such factor | near 1 / sqrt(eps): some rows are almost constant |
    | `gamma` | average of the weight | large: the layer amplifies |
    | `gamma_min`, `gamma_max` | smallest, largest absolute weight | dead, dominant channels |

    `rstd` is 1 / sqrt(variance + eps), in an RMS norm 1 / sqrt(mean square + eps). The numbers of
    gamma come from the first pass of the tick; a layer without weight has none. At all other ticks
    no hook is registered and nothing is computed.

    Args:
        model: the model; its norm layers are looked up again at every observed tick.
        every: observe ticks that are multiples of this.

    Returns:
        The observer. `with observer.at(tick)` observes, `observer.numbers()` gives the result.

    Raises:
        ConfigError: `every` is below 1, or the model has no norm layer.
    """
    ticks = as_integer(every)
    if ticks is None or ticks < 1:
        raise ConfigError("every must be at least 1 tick", got=repr(every), fix="every=100")
    if not isinstance(model, nn.Module) or not norms_of(model):
        raise ConfigError(
            "a model must hold norm layers to be observed, ours or torch's own",
            got=type(model).__name__,
            fix="metronorm.norm.replace_norms(model) first, which makes ours of many others",
        )
    return NormObserver(model, ticks)


def norms_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The names and modules of the norm layers that can be observed."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, LayerNorm | RMSNorm) or type(module) in (nn.LayerNorm, nn.RMSNorm)
    ]


class _Seen:
    """The sums of one layer over the rows of a tick; it is the layer's forward hook."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums: Tensor | None = None  # (3,): of |mean|, standard deviation and rstd
        self._rstd_max: Tensor | None = None
        self._gamma: Tensor | None = None

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return  # it would stay in the compiled code at all other ticks
        with torch.no_grad():
            if isinstance(module, AddLayerNorm | AddRMSNorm):
                x = output[1]
            else:
                x = args[0] if args else next(iter(kwargs.values()))
            if x.numel():
                self._add(module, x)

    def _add(self, module: Any, x: Tensor) -> None:
        dims = tuple(range(-len(module.normalized_shape), 0))
        wide = x.to(wide_dtype(x.dtype))
        variance, mean = torch.var_mean(
            wide, (1,) if isinstance(module, LayerNorm2d) else dims, correction=0
        )
        eps = torch.finfo(wide.dtype).eps if module.eps is None else module.eps
        spread = variance if isinstance(module, nn.LayerNorm) else variance + mean.square()
        rstd = (spread + eps).rsqrt()
        exact = stats_dtype(x.device)
        sums = torch.stack([v.sum(dtype=exact) for v in (mean.abs(), variance.sqrt(), rstd)])
        largest = rstd.max().to(exact)
        self.rows += mean.numel()
        if self._sums is None or self._rstd_max is None:
            self._sums, self._rstd_max = sums, largest
        else:
            self._sums, self._rstd_max = self._sums + sums, self._rstd_max.maximum(largest)
        if self._gamma is None and module.weight is not None:
            gamma = module.weight.detach().to(exact)
            self._gamma = torch.stack([gamma.mean(), *gamma.abs().aminmax()])

    def tensors(self) -> dict[str, Tensor]:
        """The numbers by name, still on the device."""
        if self._sums is None or self._rstd_max is None:
            return {}
        means = self._sums / self.rows
        found = dict(zip(_OF_INPUT, (*means, self._rstd_max), strict=True))
        if self._gamma is not None:
            found |= zip(_OF_GAMMA, self._gamma, strict=True)
        return found
