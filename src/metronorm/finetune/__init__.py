"""Fine-tuning of pretrained models: loading, the ledger of the data, adapters, proven export."""

from __future__ import annotations

__all__: list[str] = []
