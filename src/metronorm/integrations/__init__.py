"""The clock in other people's training loops; each module needs the package it is named after.

- `metronorm.integrations.transformers`: `TickCallback` for the Trainer
- `metronorm.integrations.accelerate`: `TickTracker` for `Accelerator(log_with=...)`
- `metronorm.integrations.lightning`: `TickCallback` and `TickLogger` for the Trainer

Keras has `metronorm.keras.TickCallback`.
"""
