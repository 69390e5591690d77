"""The model of a run in Hugging Face layout, compared in transformers before it is there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.errors import CheckpointError, RunError
from metronorm.files import directory_aside
from metronorm.models.layouts.files import save_gpt
from metronorm.tasks.text.sampling import load_model_and_tokenizer
from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.models.gpt import GPT
    from metronorm.models.layouts.layout import LayoutName

_TOKENS = 64  # compared, at most
_TOLERANCE = 1e-3  # of the largest logit; rounding is a thousandth of it

# Run in a process without this package. Prints the version of transformers, and the logits.
_RELOAD = """
import json, sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32, local_files_only=True
)
transformers.AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
with torch.inference_mode():
    logits = model.eval()(torch.tensor([json.loads(sys.argv[2])])).logits[0]
print(json.dumps([transformers.__version__, logits.tolist()]))
"""


class Exported(NamedTuple):
    """What was compared.

    Attributes:
        version: of transformers; None: it is not installed, and nothing was compared.
        largest_gap: between two logits.
        largest_logit: of either sign.
    """

    version: str | None
    largest_gap: float
    largest_logit: float


def export_model(
    run: Path,
    target: Path,
    *,
    layout: LayoutName | None = None,
    best: bool = True,
    average: str | None = None,
) -> Exported:
    """Save the model of a run, and its tokenizer, where transformers loads them.

    A fresh process without this package then loads both, and its logits are compared. Only then the
    directory gets its name.

    Args:
        run: directory of the run.
        target: a new or empty directory.
        layout: as of `metronorm.models.save_gpt`.
        best: as of `load_model`.
        average: as of `load_model`.

    Raises:
        ConfigError: a layout cannot express the model.
        RunError: no run there, or the target cannot be written or holds something.
        CheckpointError: as of `load_model`; or transformers computes something else.
        DataError: the run's tokenizer is damaged, or another one.
    """
    model, tokenizer = load_model_and_tokenizer(run, best=best, average=average)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RunError(
            "an export needs a new target", got=f"{target}, which exists", fix="another one"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with directory_aside(target) as aside:
            save_gpt(model, aside, layout=layout, tokenizer=tokenizer)
            return _compared(model, aside)
    except OSError as error:
        raise RunError("an export must be writable", got=f"{target}: {error.strerror}") from None


def _compared(model: GPT, directory: Path) -> Exported:
    if importlib.util.find_spec("transformers") is None:
        return Exported(None, 0.0, 0.0)
    config = model.config
    length = min(config.context, _TOKENS)
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (1, length), generator=chance)
    done = subprocess.run(
        # -P: nothing is imported from the working directory
        [
            sys.executable,
            "-P",
            "-W",
            "ignore",
            "-c",
            _RELOAD,
            directory,
            json.dumps(ids[0].tolist()),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise CheckpointError(
            "an exported model must load in transformers",
            got=shortened(printable(lines[-1] if lines else f"exit {done.returncode}"), 300),
        )
    version, found = json.loads(done.stdout.splitlines()[-1])
    with torch.inference_mode():
        ours = model(ids)[0].float()
    gap = float((ours - torch.tensor(found)).abs().max())
    largest = float(ours.abs().max())
    if not gap <= _TOLERANCE * max(1.0, largest):  # not "above": NaN is none either
        raise CheckpointError(
            "an exported model must compute the same in transformers",
            got=f"logits of up to {largest:.3g} that differ by {gap:.2g}",
        )
    return Exported(str(version), gap, largest)
