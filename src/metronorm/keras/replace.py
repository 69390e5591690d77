"""`replace_norms`: Keras' normalizations in a model become ours, with their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import keras

from metronorm.errors import ConfigError
from metronorm.keras import _private
from metronorm.keras.checks import checked_epsilon
from metronorm.keras.layers import LayerNormalization, RMSNormalization

if TYPE_CHECKING:
    from types import TracebackType

_OURS = {
    keras.layers.LayerNormalization: LayerNormalization,
    keras.layers.RMSNormalization: RMSNormalization,
}


class Replacement:
    """What `replace_norms` has changed. As a context manager, it undoes the change at the end.

    Attributes:
        swapped: the paths of the layers that are ours now.
        skipped: the paths of the norms that were not changed, each with the reason.
    """

    def __init__(
        self, model: keras.Model, layers: list[keras.Layer], skipped: dict[str, str]
    ) -> None:
        self.swapped = tuple(layer.path or layer.name for layer in layers)
        self.skipped = skipped
        self._model, self._layers = model, layers

    def undo(self) -> None:
        """Make the layers Keras' own again, with their present weights. Twice is once."""
        theirs = {ours: keras_own for keras_own, ours in _OURS.items()}
        for layer in self._layers:
            _set_class(layer, theirs[type(layer)])
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
        reasons = "".join(f"; {path}: {why}" for path, why in self.skipped.items())
        return f"{len(self.swapped)} norms swapped, {len(self.skipped)} skipped{reasons}"


def replace_norms(model: keras.Model) -> Replacement:
    """Make every `keras.layers.LayerNormalization` and `RMSNormalization` in a model one of ours.

    The layers stay the same objects, wherever the model holds them: in functional, sequential and
    subclassed models, in nested models, and as shared layers. Weights, names and the optimizer's
    state stay too. Functions that Keras has compiled are compiled again when they are next used.

    Args:
        model: a model or layer that is built, so that the normalized axes are known.

    Returns:
        What was swapped, and what was not and why: a subclass, a layer with `rms_scaling`, a layer
        that is not built.

    Raises:
        ConfigError: `model` is not a model of Keras.
    """
    if not isinstance(model, keras.Layer):
        raise ConfigError("model must be a model of Keras", got=type(model).__name__)
    layers: list[keras.Layer] = []
    skipped = {}
    for layer in filter(_is_norm, _private.all_layers(model)[1:]):
        why = _why_not(layer)
        if why is None:
            layers.append(layer)
        else:
            skipped[layer.path or layer.name] = why
    for layer in layers:
        _set_class(layer, _OURS[type(layer)])
    _forget_compiled(model)
    return Replacement(model, layers, skipped)


def _set_class(layer: keras.Layer, kind: type[keras.Layer]) -> None:
    # A functional model's nodes, other layers and user code hold this very object, so a new layer
    # would be missing there; and a wrapped `call` would be saved as Keras' layer, not as ours.
    layer.__class__ = kind


def _is_norm(layer: keras.Layer) -> bool:
    return isinstance(layer, tuple(_OURS)) and not isinstance(layer, tuple(_OURS.values()))


def _why_not(layer: keras.Layer) -> str | None:
    """Return the reason why a layer cannot become ours; None if it can."""
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
    for each in _private.all_layers(model):
        if isinstance(each, keras.Model):
            each.train_function = each.test_function = each.predict_function = None
