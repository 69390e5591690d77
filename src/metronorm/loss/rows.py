"""The rows that count: which they are, and what is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch.nn.functional import pad

from metronorm.loss.checks import IGNORED
from metronorm.loss.products import STEP

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from metronorm.loss.checks import Options


class Rows(NamedTuple):
    """Some rows that count. They may be none."""

    features: Tensor  # (rows, width) in the dtype of the options, times their scale
    targets: Tensor  # (rows,) int64
    weights: Tensor  # (rows,) in the dtype of the options

    def part(self, chosen: slice) -> Rows:
        """Some of these rows."""
        return Rows(*(each[chosen] for each in self))


class Counted(NamedTuple):
    """Which rows count, without their features.

    There may be some `added` rows at the end, of weight 0, with features of 0.
    """

    chosen: Tensor | None  # (rows - added,) int64, their numbers; None: all count
    targets: Tensor  # (rows,) int64
    weights: Tensor  # (rows,)
    added: int = 0

    def in_steps(self, options: Options) -> Counted:
        """The same with rows added, where that avoids kernels (see `products.STEP`)."""
        added = -len(self.targets) % STEP
        if not (added and options.bfloat16 and self.targets.device.type == "cpu"):
            return self
        targets, weights = (pad(each, (0, added)) for each in (self.targets, self.weights))
        return Counted(self.chosen, targets, weights, added)

    def rows(self, features: Tensor, options: Options) -> Rows:
        """The rows with their features, of which (..., width) are given."""
        x = features.flatten(0, -2) if features.ndim > 1 else features.unsqueeze(0)
        if self.chosen is not None:
            x = x[self.chosen]
        x = x.to(options.dtype)
        if self.added:
            x = pad(x, (0, 0, 0, self.added))
        return Rows(x if options.scale == 1 else x * options.scale, self.targets, self.weights)

    def spread(self, gradient: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A gradient of the rows as one of all features: 0 where a row does not count.

        Args:
            gradient: (rows, width).
            shape: of the features, (..., width).
            dtype: of the features.
        """
        gradient = gradient[: len(gradient) - self.added].to(dtype)
        if self.chosen is None:
            return gradient.reshape(shape)
        full = gradient.new_zeros(shape)
        full.view(-1, shape[-1])[self.chosen] = gradient
        return full


def counted_rows(targets: Tensor, weights: Tensor | None, dtype: torch.dtype) -> Counted:
    """Find the rows with a target other than -100 and a weight other than 0; waits for the device.

    Args:
        targets: integers, (...).
        weights: (...); None: all 1.
        dtype: in which to return them.
    """
    targets = targets.flatten().long()
    if weights is None:
        counts, weights = targets != IGNORED, targets.new_ones((), dtype=dtype).expand_as(targets)
    else:
        weights = weights.flatten()
        counts, weights = (targets != IGNORED) & (weights != 0), weights.to(dtype)
    chosen = counts.nonzero().squeeze(1)
    if len(chosen) == len(targets):
        return Counted(None, targets, weights)
    return Counted(chosen, targets[chosen], weights[chosen])
