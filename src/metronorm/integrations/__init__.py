"""The clock in other people's training loops and tools. Nothing is imported here.

Training loops, with the package that the module is named after:

- `metronorm.integrations.transformers`: `TickCallback` for the Trainer
- `metronorm.integrations.lightning`: `TickCallback` and `TickLogger` for the Trainer
- `metronorm.integrations.accelerate`: `TickTracker` for `Accelerator(log_with=...)`
- Keras has `metronorm.keras.TickCallback`

Trackers and monitoring:

- `metronorm.integrations.tensorboard`: a `SummaryWriter` that writes to a run
- `metronorm.integrations.importing` and `exporting`: runs of other trackers, and for them
- `metronorm.integrations.prometheus` and `opentelemetry`: what a clock measures, while it runs
"""

__all__: list[str] = []
