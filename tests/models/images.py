"""Layers of models of images as equations in float64, on NumPy."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def convolution(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    """A convolution, with as many groups as the shapes say.

    x is (batch, channels, height, width), the weight (out, channels / groups, side, side).
    """
    out, part, side, _ = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    batch, channels, height, width = x.shape
    rows, columns = ((length - side) // stride + 1 for length in (height, width))
    groups = channels // part
    result = np.zeros((batch, out, rows, columns))
    for channel in range(out):
        group = channel // (out // groups)
        seen = x[:, group * part : (group + 1) * part]
        for row in range(rows):
            for column in range(columns):
                top, left = row * stride, column * stride
                window = seen[:, :, top : top + side, left : left + side]
                result[:, channel, row, column] = (window * weight[channel]).sum((1, 2, 3))
    return result + bias[:, None, None]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float, axis: int = -1) -> Array:
    """Over one axis, such as the channels of each pixel."""
    shape = [1] * x.ndim
    shape[axis] = -1
    deviation = np.sqrt(x.var(axis, keepdims=True) + eps)
    normed = (x - x.mean(axis, keepdims=True)) / deviation
    return normed * weight.reshape(shape) + bias.reshape(shape)


def gelu(x: Array) -> Array:
    """x times the chance that a normal number is smaller."""
    return x * (1 + _erf(x / math.sqrt(2))) / 2


def softmax(x: Array, axis: int = -1) -> Array:
    raised = np.exp(x - x.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)


def weights(model: nn.Module) -> dict[str, Array]:
    """Parameters and buffers of a model, by name."""
    return {name: value.detach().double().numpy() for name, value in model.state_dict().items()}


def drawn(model: nn.Module) -> Any:
    """The model in float64, with no weight left at 0 or 1, as training leaves it."""
    for parameter in model.parameters():
        if parameter.dim() == 1 or not parameter.any():
            nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.3)
    return model.double()
