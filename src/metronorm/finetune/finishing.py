"""The end of a fine-tuning: its figures before and after, and a model that others can load."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple

from metronorm.files import remove_directory
from metronorm.finetune.card import CardTable, model_card
from metronorm.finetune.config import STOPS
from metronorm.finetune.evaluating import before_and_after, exam_of
from metronorm.finetune.exporting import check_form, why_no_adapter
from metronorm.finetune.proving import export
from metronorm.finetune.task import load_adapted, naming_rows, read, task_of
from metronorm.finetune.tuned_run import checkpoint_of, put_trained
from metronorm.ranks import find_place
from metronorm.text import short_number
from metronorm.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from metronorm.finetune.config import Config
    from metronorm.finetune.evaluating import Figure
    from metronorm.finetune.exporting import Saved
    from metronorm.finetune.proving import Form, Proof
    from metronorm.finetune.task import Read
    from metronorm.train.loop import Outcome

FOLDER = "model"
"""Of a run: what is exported."""
_PROVEN_ROWS, _PROVEN_TOKENS = 8, 128


class Finished(NamedTuple):
    """What a fine-tuning ended with.

    Attributes:
        figures: of the rows held out, before and after; empty without such rows.
        proof: of the saved model; None: the training was stopped before its end.
        directory: that the model is in.
        outcome: how the training ended; None: it was another process's.
    """

    figures: list[Figure]
    proof: Proof | None
    directory: Path
    outcome: Outcome | None = None


def finetune(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    form: Form | None = None,
    dtype: Saved = "fp32",
) -> Finished:
    """Read the data, train, evaluate before and after, save and prove.

    Of several processes that train together, the first alone evaluates and saves.

    Args:
        config: the model, the data and how to adapt.
        directory: of the run.
        resume: go on from the newest whole checkpoint.
        form: what to save, see `finish`.
        dtype: of the weights of a whole model that is saved.

    Raises:
        MetronormError: as `metronorm.train.train` and `finish`.
    """
    data = read(config)
    check_form(config, form)
    with naming_rows(config, data):
        outcome = train(
            lambda config: task_of(config, data, resume=resume), config, directory, resume=resume
        )
    if outcome.signal or outcome.reason or find_place().rank:
        return Finished([], None, directory / FOLDER, outcome)
    data.prepared.ledger.write_rejects(directory / "rejects.jsonl")
    found = finish(directory, data, stops=config.stops, form=form, dtype=dtype)
    return found._replace(outcome=outcome)


def finish(
    run: Path,
    data: Read,
    *,
    stops: int = STOPS,
    form: Form | None = None,
    dtype: Saved = "fp32",
    tell: Callable[[list[Figure]], None] = lambda figures: None,
) -> Finished:
    """Evaluate the model before and after, export it, and prove what was exported.

    Args:
        run: directory of the run; the model of its best checkpoint is exported to `model` in it,
            or, where there is another one already, to `model-TICK`, or `model-TICK-2`, and so on.
        data: of the run.
        stops: prompts to answer, see `Config`.
        form: "adapter" or "model"; None: the adapter where the way has one.
        dtype: of the weights of a whole model.
        tell: is called with the figures before anything is saved.

    Raises:
        RunError: the directory cannot be written, or has a model already.
        CheckpointError: there is no whole checkpoint, or the exported model is another one.
        DataError: the base model is not where it was.
        OutOfMemoryError: too little memory for a second process with the model.
    """
    found, config = checkpoint_of(run)
    prepared = data.prepared
    adapted = load_adapted(config, prepared.labels)
    held_out, figures = prepared.validation, []
    if held_out:
        exam = exam_of(replace(config, stops=stops), data, held_out)
        figures = before_and_after(adapted, exam, found, config)
    else:
        put_trained(adapted, found, config)
    tell(figures)
    if form is None:
        form = "model" if why_no_adapter(adapted) else "adapter"
    shown = held_out or prepared.train
    rows = [each.ids[:_PROVEN_TOKENS].tolist() for each in shown[:_PROVEN_ROWS]]
    # those of an earlier end stay: somebody may use them
    later = f"{FOLDER}-{found.tick}"
    names = chain((FOLDER, later), (f"{later}-{number}" for number in count(2)))
    taken: list[Path] = []
    while (directory := run / next(names)).exists():
        taken.append(directory)

    def card(proof: Proof) -> str:
        tables = [*([_before_and_after(figures, len(held_out))] if figures else ()), _ledger(data)]
        return model_card(adapted, proof, name=run.name, form=form, run=run, tables=tables)

    proof = export(adapted, directory, rows, form=form, dtype=dtype, card=card)
    same = next((path for path in taken if _same_weights(path, directory)), None)
    if same:  # a finished run that was resumed has nothing new
        remove_directory(directory)
    return Finished(figures, proof, same or directory)


def _same_weights(one: Path, other: Path) -> bool:
    names = {path.name for folder in (one, other) for path in folder.glob("*.safetensors")}
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def _before_and_after(figures: Sequence[Figure], rows: int) -> CardTable:
    cells = [
        (
            figure.name,
            short_number(figure.found.before),
            short_number(figure.found.after),
            f"{short_number(figure.found.low)} to {short_number(figure.found.high)}",
        )
        for figure in figures
    ]
    note = (
        f"Of {rows:,} rows that were held out; 95 % interval of the change by a paired bootstrap."
    )
    return CardTable("Before and after", ("", "before", "after", "change"), cells, note)


def _ledger(data: Read) -> CardTable:
    summary = data.prepared.ledger.summary()
    cells: list[tuple[object, ...]] = []
    for name, side in summary["sets"].items():
        cells.append((name, side["rows"], sum(side["tokens"].values())))
        cells += [(f"of these: {kind}", None, tokens) for kind, tokens in side["tokens"].items()]
    cells += [
        (f"dropped: {reason}", each["rows"], each["tokens"])
        for reason, each in summary["dropped"].items()
    ]
    cells.append(("all that was read", summary["rows"], summary["tokens"]))
    return CardTable("Data", ("", "rows", "tokens"), cells)
