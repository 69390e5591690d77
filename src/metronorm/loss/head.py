"""A linear head on some rows and some of its vocabulary: losses, and the gradient of the logits.

The logits of a part are one tensor, which goes through everything in place:

    logits -> log-probabilities -> gradient of the loss with respect to the logits
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.loss.products import multiply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from metronorm.loss.checks import Options
    from metronorm.loss.rows import Rows

CONVERTED = 1 << 12  # entries of a weight in half precision that are converted at once


class Head(NamedTuple):
    """Weight and bias of the head, and how its loss is computed."""

    weight: Tensor  # (vocabulary, width)
    bias: Tensor | None  # (vocabulary,)
    options: Options

    @property
    def entries(self) -> slice:
        """All of the vocabulary."""
        return slice(0, len(self.weight))

    def logits(self, rows: Rows, chosen: slice, out: Tensor) -> Tensor | None:
        """Write the logits of rows for some entries of the vocabulary.

        Args:
            rows: any.
            chosen: entries, with a start and a stop.
            out: (rows, entries) of the dtype of the options.

        Returns:
            The slope of the soft-cap at each logit, (rows, entries); None without a soft-cap.
        """
        scale, cap = self.options.scale, self.options.soft_cap
        for piece in self._pieces(chosen):
            columns = out[:, piece.start - chosen.start : piece.stop - chosen.start]
            self.multiply(rows.features, self._weight(piece).T, out=columns)
        if self.bias is not None:
            out.add_(self.bias[chosen], alpha=scale)
        if cap is None:
            return None
        out.div_(cap).tanh_()
        slope = torch.square(out).neg_().add_(1)
        out.mul_(cap)
        return slope

    def losses(self, logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """The losses of rows of weight 1, and the logsumexp of their logits; both (rows,).

        Args:
            logits: (rows, vocabulary), of which the log-probabilities are made in place.
            rows: of the logits.
        """
        smoothing, z_loss = self.options.label_smoothing, self.options.z_loss
        target = rows.targets.unsqueeze(1)
        of_target = logits.gather(1, target).squeeze(1)
        torch.log_softmax(logits, 1, out=logits)
        losses = logits.gather(1, target).squeeze(1).neg_()
        logsumexp = of_target.add_(losses)
        if smoothing:
            losses = losses.mul_(1 - smoothing).sub_(logits.mean(1), alpha=smoothing)
        if z_loss:
            losses = losses.addcmul_(logsumexp, logsumexp, value=z_loss)
        return losses, logsumexp

    def gradient(
        self, values: Tensor, slope: Tensor | None, rows: Rows, logsumexp: Tensor, chosen: slice
    ) -> Tensor:
        """The gradient of the losses of rows of weight 1 with respect to `features @ weight.T`.

        That is without the factor `scale`, which `rows.features` have.

        Args:
            values: log-probabilities, (rows, entries), of which the gradient is made in place.
            slope: of the soft-cap, from `logits`.
            rows: of the values.
            logsumexp: (rows,), from `losses`.
            chosen: the entries of the vocabulary.
        """
        smoothing, z_loss = self.options.label_smoothing, self.options.z_loss
        values.exp_()
        if z_loss:
            values.mul_(logsumexp.mul(2 * z_loss).add_(1).unsqueeze(1))
        if smoothing:
            values.sub_(smoothing / len(self.weight))
        column = rows.targets - chosen.start
        inside = ((column >= 0) & (column < values.shape[1])).nonzero().squeeze(1)
        values[inside, column[inside]] -= 1 - smoothing
        return values if slope is None else values.mul_(slope)

    def back_to_features(self, gradient: Tensor, out: Tensor) -> None:
        """`out = gradient @ weight`, (rows, width), for a gradient of the whole vocabulary."""
        for piece in self._pieces(self.entries):
            columns = gradient[:, piece]
            self.multiply(columns, self._weight(piece), out=out, add=piece.start > 0)

    def multiply(self, a: Tensor, b: Tensor, *, out: Tensor, add: bool = False) -> None:
        """`out = a @ b`, or `out += a @ b`; see `products.py`."""
        multiply(a, b, out=out, add=add, bfloat16=self.options.bfloat16)

    def _weight(self, piece: slice) -> Tensor:
        return self.weight[piece].to(self.options.dtype)

    def _pieces(self, chosen: slice) -> Iterator[slice]:
        """The chosen entries, in pieces if the weight must be converted."""
        converts = self.weight.dtype != self.options.dtype
        size = CONVERTED if converts else chosen.stop - chosen.start
        return pieces(chosen.stop, size, start=chosen.start)


def pieces(stop: int, size: int, *, start: int = 0) -> Iterator[slice]:
    """The numbers from start to stop, in pieces of a size; the last may be smaller."""
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
