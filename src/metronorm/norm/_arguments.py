"""Names for the arguments that the three operators share.

An operator of torch takes its arguments by position, and hands them by position to the function
that saves them for its derivative. These tuples give the positions names, in the order of the
schemas in `operators.py`: `NormArguments(*rest).save_output`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class NormArguments(NamedTuple):
    """What defines a normalization, besides its input."""

    weight: Tensor | None  # the normalized shape
    bias: Tensor | None  # the normalized shape
    dims: int  # the number of trailing dimensions that are normalized together
    eps: float
    centred: bool  # subtract the mean: layer normalization; otherwise RMS normalization
    save_output: bool  # the backward pass starts from the output, not from the input


class DropoutArguments(NamedTuple):
    """What defines the dropout before a residual add."""

    dropout: float  # the probability that an element is dropped
    seed: Tensor | None  # int64, shape (); None where nothing is dropped
