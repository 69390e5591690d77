"""Ticks as accumulated gradient: the state of these optimizers is the running sum of gradients.

The loop, whatever the model:

    optimizer = Ticks(model.parameters(), lr=0.1, momentum=0.9)
    for window in windows(batches, micro_batches=4, count=tokens_of):
        for batch, weight in window:
            (weight * summed_loss(model, batch)).backward()  # added to the sum, which is .grad
        optimizer.step()
"""

from metronorm.optim.find_learning_rate import find_learning_rate
from metronorm.optim.learning_rate_search import LearningRateSearch
from metronorm.optim.ticks import Ticks
from metronorm.optim.ticks_adam import TicksAdam
from metronorm.optim.ticks_muon import TicksMuon
from metronorm.optim.ticks_sign import TicksSign
from metronorm.optim.windows import Window, windows

__all__ = [
    "LearningRateSearch",
    "Ticks",
    "TicksAdam",
    "TicksMuon",
    "TicksSign",
    "Window",
    "find_learning_rate",
    "windows",
]
