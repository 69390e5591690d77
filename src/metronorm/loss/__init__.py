"""Losses that never hold the logits: the cross entropy of a linear head, summed."""

from metronorm.loss.linear_cross_entropy import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
