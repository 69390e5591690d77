"""A saved model is proven: a fresh process without metronorm loads it and computes the same logits.

    save to NAME.unproven ─► a process with plain transformers and peft loads it, and compares
        ├─ within tolerance ─► the card is written, the folder renamed to NAME
        └─ not ──────────────► an error that names NAME.unproven, which stays

Both sides compute in float32, whatever the dtype of the weights. So what is compared is the weights
that were saved, and not two ways to round activations.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file

from metronorm.errors import CheckpointError, DataError, OutOfMemoryError
from metronorm.files import remove_directory, sync, write_atomic
from metronorm.finetune.exporting import check_new, save_adapter, save_model
from metronorm.text import percent, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from metronorm.finetune.adapting import Adapted
    from metronorm.finetune.exporting import Saved

Form = Literal["model", "adapter"]

_KEPT_LOGITS = 1 << 24  # 64 MiB
_SCRIPT = Path(__file__).with_name("_reload.py")


@dataclass(frozen=True)
class Tolerance:
    """How far a reloaded model may be from the live one.

    Attributes:
        divergence: mean Kullback-Leibler divergence, in nats.
        agreement: least share of positions with the same most probable token or label.
        gap: largest difference of two logits, as a share of the largest logit.
    """

    divergence: float
    agreement: float
    gap: float


SAME_WEIGHTS = Tolerance(divergence=1e-5, agreement=0.99, gap=1e-3)
ROUNDED_WEIGHTS = Tolerance(divergence=0.02, agreement=0.9, gap=0.25)  # to bfloat16


@dataclass(frozen=True)
class Proof:
    """What a fresh process found.

    Attributes:
        divergence: mean Kullback-Leibler divergence of the reloaded model from the live one, nats.
        agreement: share of positions with the same most probable token or label.
        largest_gap: largest difference of two logits.
        largest_logit: largest logit, of either sign.
        positions: how many predictions were compared.
        versions: of the libraries that loaded it.
    """

    divergence: float
    agreement: float
    largest_gap: float
    largest_logit: float
    positions: int
    versions: Mapping[str, str]

    def __str__(self) -> str:
        return (
            f"KL {self.divergence:.2g} nats, top-1 agreement {percent(self.agreement)}, "
            f"largest gap {self.largest_gap:.2g} of logits up to {self.largest_logit:.3g} "
            f"at {self.positions:,} positions"
        )


def export(
    adapted: Adapted,
    directory: Path,
    rows: Sequence[Sequence[int]],
    *,
    form: Form = "model",
    dtype: Saved = "fp32",
    card: Callable[[Proof], str] | None = None,
) -> Proof:
    """Save an adapted model, prove what was saved, and write its card.

    Args:
        adapted: the live model.
        directory: new, or empty.
        rows: token ids of texts to compare on; a few, each at most as long as the context.
        form: "model": the whole model, merged; "adapter": what was trained.
        dtype: of the weights of a whole model.
        card: makes the text of `README.md` from the proof.

    Raises:
        ConfigError: a way that has no adapter.
        RunError: the directory cannot be written, or holds something.
        CheckpointError: the saved model cannot be loaded or is another one; it stays in
            `NAME.unproven`.
        OutOfMemoryError: the fresh process was killed, which the system does where memory ends.
    """
    directory = directory.absolute()
    check_new(directory)
    unproven = directory.with_name(f"{directory.name}.unproven")
    remove_directory(unproven)
    if form == "adapter":
        save_adapter(adapted, unproven)
        rounded = adapted.config.body == "bf16"  # the base model on disk has not been rounded
    else:
        save_model(adapted.pretrained, unproven, dtype)
        rounded = dtype == "bf16"
    proof = prove(adapted, unproven, rows, ROUNDED_WEIGHTS if rounded else SAME_WEIGHTS)
    if card is not None:
        write_atomic(unproven / "README.md", card(proof).encode())
    if directory.exists():
        directory.rmdir()
    unproven.rename(directory)
    sync(directory.parent)
    return proof


def prove(
    adapted: Adapted, directory: Path, rows: Sequence[Sequence[int]], tolerance: Tolerance
) -> Proof:
    """Compare a saved model, loaded by a fresh process, with the live one.

    Args:
        adapted: the live model.
        directory: of the saved one.
        rows: token ids to compare on.
        tolerance: how far it may be.

    Raises:
        DataError: there are no rows.
        CheckpointError: it cannot be loaded, or is another model.
        OutOfMemoryError: the process was killed.
    """
    pretrained = adapted.pretrained
    kept = [list(map(int, row[: pretrained.context])) for row in rows if len(row)]
    if not kept:
        raise DataError("a saved model is proven on rows of tokens", got="none")
    with tempfile.TemporaryDirectory(prefix="metronorm-proof-") as scratch:
        job = _job(adapted, directory, kept, Path(scratch))
        _run(job, Path(scratch), directory)
        found = json.loads(Path(job["result"]).read_text())
    tokenizer = pretrained.tokenizer
    if found.pop("tokenizer") != [len(tokenizer), getattr(tokenizer, "chat_template", None)]:
        raise CheckpointError(
            "a saved model must come with its tokenizer and template", got=f"others in {directory}"
        )
    proof = Proof(**found)
    # not "above": NaN is in no tolerance
    within = (
        proof.divergence <= tolerance.divergence
        and proof.agreement >= tolerance.agreement
        and proof.largest_gap <= tolerance.gap * max(1.0, proof.largest_logit)
    )
    if not within:
        raise CheckpointError(
            "a saved model must compute what the live one does "
            f"(KL {tolerance.divergence:g}, agreement {percent(tolerance.agreement)}, "
            f"gap {percent(tolerance.gap)} of the largest logit)",
            got=f"{proof}; it stays in {directory}",
        )
    return proof


def _job(adapted: Adapted, directory: Path, rows: list[list[int]], scratch: Path) -> dict[str, Any]:
    """What the fresh process is asked, with the logits of the live model in a file."""
    pretrained = adapted.pretrained
    causal = pretrained.kind == "causal"
    size = pretrained.model.config.vocab_size if causal else len(pretrained.labels)
    places = [_spread(len(row), _KEPT_LOGITS // size // len(rows)) for row in rows]
    logits = live_logits(pretrained.model, rows, places if causal else None)
    save_file({str(index): each for index, each in enumerate(logits)}, scratch / "logits")
    base, gguf = "", ""
    if (directory / "adapter_config.json").exists():
        base = json.loads((directory / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        gguf = _gguf_name(pretrained.source)
    return {
        "path": str(directory),
        "base": base,
        "gguf": gguf,
        "kind": pretrained.kind,
        "labels": len(pretrained.labels),
        "rows": rows,
        "places": places,
        "logits": str(scratch / "logits"),
        "result": str(scratch / "result.json"),
    }


@torch.no_grad()  # not inference mode: weights that are converted in it could not train any more
def live_logits(
    model: nn.Module, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]] | None
) -> list[Tensor]:
    """The logits of a live model in evaluation mode, computed in float32.

    Args:
        model: of transformers, in any dtype; it is as it was afterwards.
        rows: token ids.
        places: for each row, the positions to keep; None: of a classifier, which has one.

    Returns:
        (positions, vocabulary) for each row, or (1, labels); float32.
    """
    found = []
    device = next(model.parameters()).device
    with _evaluating_in_float32(model):
        for number, row in enumerate(rows):
            ids = torch.tensor([row], device=device)
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            kept = logits if places is None else logits[0, places[number]]
            found.append(kept.float().cpu().clone())
    return found


@contextlib.contextmanager
def _evaluating_in_float32(model: nn.Module) -> Iterator[None]:
    """Inside, half-precision weights are float32, which is exact there and back."""
    halves = [each for each in model.parameters() if each.dtype.itemsize < 4]
    dtypes, was_training = [each.dtype for each in halves], model.training
    try:
        model.eval()
        for parameter in halves:
            parameter.data = parameter.data.float()
        yield
    finally:
        model.train(was_training)
        for parameter, dtype in zip(halves, dtypes, strict=True):
            parameter.data = parameter.data.to(dtype)


def _spread(length: int, most: int) -> list[int]:
    """At most so many positions of a row, at equal distances; the last one is among them."""
    count = max(1, min(length, most))
    return [length - 1 - index * length // count for index in range(count)][::-1]


def _gguf_name(source: Path) -> str:
    if source.is_file():
        return source.name
    if (source / "config.json").exists():
        return ""
    return next((path.name for path in sorted(source.glob("*.gguf"))), "")


def _run(job: dict[str, Any], scratch: Path, directory: Path) -> None:
    asked = scratch / "job.json"
    asked.write_text(json.dumps(job))
    done = subprocess.run(
        # -P: nothing is imported from the script's own folder, which is this package
        [sys.executable, "-P", str(_SCRIPT), str(asked)],
        cwd=scratch,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    if done.returncode == -9:
        raise OutOfMemoryError(
            "a fresh process must have memory to load what was saved",
            got=f"it was killed; the model stays in {directory}",
            fix="free memory on this machine, and export again",
        )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = shortened(printable(lines[-1] if lines else f"exit {done.returncode}"), 300)
    raise CheckpointError(
        "a saved model must load with plain transformers and peft",
        got=f"{reason}; it stays in {directory}",
    )
