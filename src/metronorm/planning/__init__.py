"""What a training would take, on one process or on several, before it is started.

`plan(task, config, processes=4)` makes a few ticks on one process and predicts the rest.
"""

from metronorm.planning.predicting import Prediction
from metronorm.planning.probing import Plan, plan

__all__ = ["Plan", "Prediction", "plan"]
