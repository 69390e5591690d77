"""A toolkit for developing and fine-tuning large models.

It records every update of the parameters, accumulates gradients exactly, and computes layer
normalization right and fast. This package is empty and loads no framework: import the part that you
need.

| part | what it does |
| --- | --- |
| `metronorm.clock` | records the ticks of a training loop |
| `metronorm.runs` | reads, compares and diagnoses what was recorded |
| `metronorm.optim` | optimizers that accumulate gradients exactly |
| `metronorm.norm` | layer and RMS normalization |
| `metronorm.models`, `metronorm.data`, `metronorm.train` | a GPT, its data and its training |
| `metronorm.keras` | clock, optimizer and norms for Keras 3 |
| `metronorm.integrations` | other training loops, and runs of other trackers |
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
