"""`replace_norms`: a model's own normalizations become ours, weights and all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import keras

from metronorm.errors import ConfigError
from metronorm.keras.checks import checked_epsilon
from metronorm.keras.layers import LayerNormalization, RMSNormalization

if TYPE_CHECKING:
    from types import TracebackType

_OURS = {
    keras.layers.LayerNormalization: LayerNormalization,
    keras.layers.RMSNormalization: RMSNormalization,
}


class Replacement:
    """What `replace_norms` did; as a context manager, it is undone at the end.

    Attributes:
        swapped: paths of the layers that are ours now.
        left: paths of the norms that were left alone, and why.
    """

    def __init__(self, model: keras.Model, layers: list[keras.Layer], left: dict[str, str]) -> None:
        self.swapped = tuple(layer.path or layer.name for layer in layers)
        self.left = left
        self._model, self._layers = model, layers

    def undo(self) -> None:
        """Make them Keras' own again, with the weights they have now; twice changes nothing."""
        theirs = {ours: keras_own for keras_own, ours in _OURS.items()}
        for layer in self._layers:
            layer.__class__ = theirs[type(layer)]
        _forget_compiled(self._model)
        self._layers = []

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
        told = "".join(f"; {path}: {why}" for path, why in self.left.items())
        return f"{len(self.swapped)} norms swapped, {len(self.left)} left{told}"


def replace_norms(model: keras.Model) -> Replacement:
    """Make every `keras.layers.LayerNormalization` and `RMSNormalization` in a model one of ours.

    The layers stay the objects they are, wherever the model holds them: functional, sequential and
    subclassed models, nested ones and shared layers, with weights, names, and the optimizer's
    state. Functions that Keras compiled are compiled anew when they are next used.

    Args:
        model: built, so that it is known what is normalized.

    Returns:
        What was swapped, and what was left and why: a subclass of somebody's, `rms_scaling`, a
        layer that is not built.

    Raises:
        ConfigError: not a model of Keras.
    """
    if not isinstance(model, keras.Layer):
        raise ConfigError("model must be a model of Keras", got=type(model).__name__)
    layers: list[keras.Layer] = []
    left = {}
    for layer in filter(_is_norm, model._flatten_layers(include_self=False)):
        why = _unfit(layer)
        if why is None:
            layers.append(layer)
        else:
            left[layer.path or layer.name] = why
    for layer in layers:
        layer.__class__ = _OURS[type(layer)]
    _forget_compiled(model)
    return Replacement(model, layers, left)


def _is_norm(layer: keras.Layer) -> bool:
    return isinstance(layer, tuple(_OURS)) and not isinstance(layer, tuple(_OURS.values()))


def _unfit(layer: keras.Layer) -> str | None:
    """Why a layer cannot become ours, if so."""
    if type(layer) not in _OURS:
        return f"a {type(layer).__name__} may do something else"
    if not layer.built:
        return "is not built yet"
    if getattr(layer, "rms_scaling", False):
        return "its rms_scaling is no layer normalization"
    try:
        checked_epsilon(layer.epsilon)
    except ConfigError as error:
        return str(error)
    return None


def _forget_compiled(model: Any) -> None:
    for each in model._flatten_layers():
        if isinstance(each, keras.Model):
            each.train_function = each.test_function = each.predict_function = None
