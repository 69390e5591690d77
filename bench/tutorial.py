"""A tick of the tutorial's model: snippets of articles, ours, and torch's own layer and SGD.

The snippets are those of docs/tutorial.md, parts 1 to 4, without their trainings. The models take
turns in one process, with the same batches. Rows are milliseconds of CPU time for the forward and
backward passes of two beats and the step: on a machine with other work, these vary least.

python bench/tutorial.py [--ticks 200] [--threads 1]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _rows import append

from metronorm.norm import LayerNorm
from metronorm.optim import Ticks

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        names = run_snippets()
        cases: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "snippets of articles": (names["ArticleLayerNorm"], names["WithSums"]),
            "metronorm": (LayerNorm, lambda p: Ticks(p, lr=0.1)),
            "torch.nn.LayerNorm, SGD": (torch.nn.LayerNorm, sgd),
        }
        trained = {}
        for case, (norm, optimizer_of) in cases.items():
            torch.manual_seed(0)
            model = names["Model"](norm)
            trained[case] = model, optimizer_of(model.parameters())
        spent: dict[str, list[float]] = {case: [] for case in cases}
        batches = names["batches"]()
        for _ in range(arguments.ticks):
            beats = [next(batches), next(batches)]
            for case, (model, optimizer) in trained.items():
                spent[case].append(tick_ms(names["loss_of"], model, optimizer, beats))
    for case, times in spent.items():
        append("tutorial", f"a tick, {case}", "ms of CPU", times[10:])


def run_snippets() -> dict[str, Any]:
    """What the snippets of parts 1 to 4 define. They print and record in the current folder."""
    page = PAGE.read_text().partition("\n## 5")[0]
    names: dict[str, Any] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if "import tensorflow" not in code:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code.partition("\ntrain(")[0], str(PAGE), "exec"), names)
    return names


def sgd(parameters: Any) -> torch.optim.SGD:
    """What `Ticks` computes, by torch."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def tick_ms(loss_of: Any, model: Any, optimizer: Any, beats: Any) -> float:
    """Milliseconds of CPU time of one tick."""
    begin = time.process_time_ns()
    if isinstance(optimizer, torch.optim.SGD):
        optimizer.zero_grad()
    for beat in beats:
        (loss_of(model, beat, "sum") / 512).backward()
        getattr(optimizer, "accumulate", lambda: None)()
    optimizer.step()
    return (time.process_time_ns() - begin) / 1e6


if __name__ == "__main__":
    main()
