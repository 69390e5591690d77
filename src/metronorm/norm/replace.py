"""`replace_norms`: replaces the norm layers of a model by ours, which keep their parameters."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Self, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from metronorm.errors import ConfigError
from metronorm.norm._torch_private import has_hooks, parameters_of
from metronorm.norm.checks import Save, checked_save
from metronorm.norm.layer_norm import LayerNorm
from metronorm.norm.probe import TOLERANCES, Norm, equal_layer, take_parameters
from metronorm.norm.rms_norm import RMSNorm
from metronorm.scalars import as_real

if TYPE_CHECKING:
    from types import TracebackType

_ENDINGS = ("layernorm", "rmsnorm", "layernorm2d")
_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps")
# A dtype of a smaller share of the parameters is not tried: adapters in float32, for example, have
# fewer parameters, and cast their outputs back.
_WORTH_A_PROBE = 0.05


class _Swap(NamedTuple):
    name: str
    parent: nn.Module
    old: nn.Module
    new: nn.Module

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


class Replacement:
    """The result of `replace_norms`; as a context manager, it calls `undo` at the end.

    Attributes:
        swapped: names of the modules that are layers of ours now; a shared layer has several names.
        skipped: names of the norms that were not replaced, with the reason for each.
    """

    def __init__(self, swaps: list[_Swap], skipped: dict[str, str]) -> None:
        self.swapped = tuple(swap.name for swap in swaps)
        self.skipped = skipped
        self._swaps = swaps

    def undo(self) -> None:
        """Put the old layers back, with the parameters and the mode that ours have now.

        A second call changes nothing.

        Raises:
            ConfigError: one of our layers is no longer in its place, or has other parameters; then
                nothing is changed.
        """
        for swap in self._swaps:
            there = getattr(swap.parent, swap.leaf, None)
            if there is not swap.new or not _names(swap.old) <= _names(there):
                raise ConfigError(
                    "to undo, every layer of ours must still be in its place, with its parameters",
                    got=f"{swap.name} has changed and is a {type(there).__name__}",
                    fix="undo that change first, or build the model again",
                )
        for swap in self._swaps:
            take_parameters(swap.old, swap.new)  # load_state_dict(assign=True) makes new ones
            swap.old.training = swap.new.training
            swap.parent.add_module(swap.leaf, swap.old)
        self._swaps = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        count = len(self.swapped)
        text = f"{count} {'norm' if count == 1 else 'norms'} swapped, {len(self.skipped)} skipped"
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            by_reason.setdefault(reason, []).append(name)
        parts = [
            names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") + f" ({reason})"
            for reason, names in by_reason.items()
        ]
        return f"{text}: {', '.join(parts)}" if parts else text

    def __repr__(self) -> str:
        return f"<Replacement: {self}>"


def replace_norms(model: nn.Module, *, save: Save = "input") -> Replacement:
    """Replace the norm layers of a model by ours; nothing else in the model changes.

    It replaces `torch.nn.LayerNorm` and `RMSNorm`, the LayerNorm and RMSNorm classes of
    transformers and similar ones, and norms over the channels of images. Our layers get the same
    Parameter objects, eps and mode, so optimizers, tied weights and state dicts stay valid. A layer
    that is in several places is replaced by one layer in the same places.

    Every layer is tried on small inputs first. It is replaced only if ours gives the same numbers,
    gradients and dtypes in training and in evaluation, in repeated calls, for inputs of the dtype
    of its weight and of the dtypes of at least 5 % of the model's parameters. A norm that takes
    tokens as well as images is not replaced. Nor are the half-precision norms of a model that sets
    `residual_in_fp32`, such as Mamba, because they may get float32 inputs.

    Two things differ afterwards: under autocast our layers keep the input's dtype, and our layers
    in half precision refuse a float32 input. In that case call `undo()`, or keep the layer in
    float32. Call `replace_norms` after the weights are loaded, and before the model is compiled or
    sharded.

    Args:
        model: any module that is not a norm itself.
        save: the tensor that the backward pass of our layers keeps, as in `LayerNorm`.

    Returns:
        The names of the replaced norms, the names of the others with the reasons, and `undo()`.

    Raises:
        ConfigError: `model` is a norm itself or no module, or `save` is unknown.
    """
    checked_save(save)
    if not isinstance(model, nn.Module):
        raise ConfigError("a model must be a torch.nn.Module", got=type(model).__name__)
    if _looks_like_norm(model):
        raise ConfigError(
            "norms are replaced inside a model",
            got=f"a {type(model).__name__}, which is a norm itself",
            fix="the model around it, or build a metronorm.norm layer and load its state dict",
        )
    dtypes = _main_dtypes(model)
    if torch.float32 not in dtypes and _keeps_residual_wide(model):
        dtypes = *dtypes, torch.float32
    answers: dict[nn.Module, nn.Module | str] = {}
    swaps, skipped = [], {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not _looks_like_norm(module) or "parametrizations" in name.split("."):
            continue
        if module not in answers:
            norm = _described(module, dtypes)
            answers[module] = norm if isinstance(norm, str) else equal_layer(norm, dtypes, save)
        answer = answers[module]
        if isinstance(answer, str):
            skipped[name] = answer
        else:
            parent = model.get_submodule(name.rpartition(".")[0])
            swaps.append(_Swap(name, parent, module, answer))
    for swap in swaps:
        swap.parent.add_module(swap.leaf, swap.new)
    return Replacement(swaps, skipped)


def _names(module: nn.Module) -> set[str]:
    """Names of the parameters that are not None."""
    return {name for name, value in parameters_of(module).items() if value is not None}


def _looks_like_norm(module: nn.Module) -> bool:
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return True
    children = {name for name, _ in module.named_children()} - {"parametrizations"}
    return "norm" in type(module).__name__.lower() and not children


def _described(module: nn.Module, dtypes: tuple[torch.dtype, ...]) -> Norm | str:
    """The layer's shape, eps and so on, or the reason why it is not even tried."""
    kind = type(module).__name__
    if isinstance(module, LayerNorm | RMSNorm):
        return "already ours"
    torchs = isinstance(module, nn.LayerNorm | nn.RMSNorm)
    if not torchs and not kind.lower().endswith(_ENDINGS):
        return f"a {kind} is neither a layer nor an RMS norm"
    if parametrize.is_parametrized(module):
        return "is parametrized"
    if has_hooks(module):
        return "has hooks of its own"
    if "forward" in vars(module):
        return "its forward was replaced"
    if len(inspect.signature(module.forward).parameters) != 1:
        return "its forward takes more than one input"
    parameters = {name: value for name, value in parameters_of(module).items() if value is not None}
    if not parameters.keys() <= {"weight", "bias"} or any(True for _ in module.buffers()):
        return "holds more than a weight and a bias"
    weight = parameters.get("weight")
    if weight is None and (parameters or not torchs):
        return "has no weight of its own"
    wrong = _wrong_parameters(list(parameters.values()), any_shape=torchs)
    if wrong is not None:
        return wrong
    eps = next((vars(module)[name] for name in _EPS_NAMES if name in vars(module)), 0.0)
    if not (eps is None and isinstance(module, nn.RMSNorm)):
        eps = as_real(eps)
        if eps is None or not 0 < eps < math.inf:
            return "has no eps above zero"
    if weight is not None:
        norm = Norm(module, tuple(weight.shape), eps, weight.device, weight.dtype)
    else:
        shape = cast("tuple[int, ...]", module.normalized_shape)
        dtype = dtypes[0] if dtypes else torch.float32
        norm = Norm(module, shape, eps, torch.device("cpu"), dtype)
    return norm if math.prod(norm.shape) else "normalizes nothing"


def _wrong_parameters(parameters: list[nn.Parameter], *, any_shape: bool) -> str | None:
    """The reason why these cannot be the parameters of one of our layers, or None."""
    for value in parameters:
        if type(value) is not nn.Parameter:
            return f"its parameters are of another class, {type(value).__name__}"
        if value.is_meta:
            return "is on the meta device: replace it once the weights are loaded"
        if value.dim() != 1 and not any_shape:
            return f"its weight has {value.dim()} dimensions"
        if value.dtype not in TOLERANCES:
            return f"its parameters are {value.dtype}".replace("torch.", "")
    if len({value.dtype for value in parameters}) > 1:
        return "its weight and bias are of two dtypes"
    return None


def _keeps_residual_wide(model: nn.Module) -> bool:
    """Whether a model declares a float32 residual stream, independent of its weights' dtype."""
    return any(
        getattr(holder, "residual_in_fp32", False)
        for module in model.modules()
        for holder in (module, getattr(module, "config", None))
    )


def _main_dtypes(model: nn.Module) -> tuple[torch.dtype, ...]:
    """The dtypes that at least 5 % of the model's parameters have, the most frequent first."""
    sizes: Counter[torch.dtype] = Counter()
    for value in model.parameters():
        if value.dtype in TOLERANCES and not is_lazy(value):
            sizes[value.dtype] += value.numel()
    return tuple(
        dtype for dtype, size in sizes.most_common() if size >= _WORTH_A_PROBE * sizes.total()
    )
