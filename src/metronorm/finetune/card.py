"""The card of a saved model: `README.md`, written from the run's own record.

Everything in it was recorded: what was trained, on which rows, how the losses went, on which
machine, how good it was before and after, and what a fresh process found. Texts that come from data
(names of columns, labels, paths) are escaped, so that they are shown and never become markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm import __version__
from metronorm.runs import open_run, summarize
from metronorm.runs.curves import read_curve
from metronorm.text import flat, hours_minutes, percent, printable, short_number, shortened, size

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.finetune.adapting import Adapted
    from metronorm.finetune.proving import Form, Proof
    from metronorm.runs.reader import Run
    from metronorm.runs.summary import Summary

CURVE_ROWS = 20
# What is markup between words alone (`_`), before a space (`-`, `+`, `1.`) or in a link (`www.`) is
# escaped there alone: numbers, names and paths stay as they are.
_MARKUP = re.compile(
    r"([\\`*\[\]#|~$>]|(?<!\w)_|_(?!\w)|[+-](?!\w)|(?<=\d)[.](?=\s)|(?<=www)[.])", re.IGNORECASE
)
_HTML = {ord("&"): "&amp;", ord("<"): "&lt;"}


@dataclass(frozen=True)
class CardTable:
    """A table of a card: the ledger of the data, measures before and after.

    Attributes:
        title: heading above it.
        columns: names of the columns.
        rows: as many cells in each; None is an empty cell.
        note: a sentence below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


def model_card(
    adapted: Adapted,
    proof: Proof,
    *,
    name: str,
    form: Form = "model",
    run: Path | None = None,
    tables: Sequence[CardTable] = (),
) -> str:
    """The text of a card, in Markdown with the front matter that Hugging Face reads.

    Args:
        adapted: what was trained.
        proof: what a fresh process found.
        name: of the saved model.
        form: what was saved.
        run: directory of the training; None: there was none (a head that was solved).
        tables: more to show, such as the ledger and the measures before and after.

    Raises:
        RunError: the run cannot be read.
    """
    config, base = adapted.config, adapted.pretrained.source.name
    parts = [
        _front_matter(adapted, form),
        f"# {escaped(name)}",
        f"{escaped(base)}, adapted with Metronorm {__version__} by `{config.way}`: "
        f"{adapted.trained:,} of {adapted.total:,} parameters were trained "
        f"({percent(adapted.trained / adapted.total)}).",
        _use(adapted, form),
    ]
    parts += [_table(table) for table in tables]
    parts.append(_proof(proof))
    if run is not None:
        opened = open_run(run)
        parts += _training(opened, summarize(opened))
    return "\n\n".join(parts) + "\n"


def escaped(text: object, length: int = 200) -> str:
    """A text on one line in which nothing is markup, of Markdown or HTML."""
    plain = shortened(" ".join(printable(str(text), multiline=True).split()), length)
    return _MARKUP.sub(r"\\\1", plain).translate(_HTML)


def _front_matter(adapted: Adapted, form: Form) -> str:
    causal = adapted.pretrained.kind == "causal"
    fields = {
        "library_name": "peft" if form == "adapter" else "transformers",
        "pipeline_tag": "text-generation" if causal else "text-classification",
        "tags": ["metronorm", adapted.config.way],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---"])


def _use(adapted: Adapted, form: Form) -> str:
    pretrained = adapted.pretrained
    causal = pretrained.kind == "causal"
    auto = "AutoModelForCausalLM" if causal else "AutoModelForSequenceClassification"
    imports, load = [f"from transformers import {auto}, AutoTokenizer"], []
    if form == "adapter":
        imports.insert(0, "from peft import PeftModel")
        more = ""
        if pretrained.source.suffix == ".gguf":
            more = f", gguf_file={json.dumps(pretrained.source.name)}"
        if not causal:
            imports.insert(0, "import json\n")
            load.append('labels = dict(enumerate(json.load(open("labels.json"))))')
            more += ", id2label=labels, num_labels=len(labels)"
        if "norm" in adapted.config.way:  # else PEFT rounds the gains to the base's dtype
            more += ', dtype="float32"'
        load.append(f'base = {auto}.from_pretrained("BASE"{more})')
        load.append('model = PeftModel.from_pretrained(base, ".")')
    else:
        load.append(f'model = {auto}.from_pretrained(".")')
    load.append('tokenizer = AutoTokenizer.from_pretrained(".")')
    code = "\n".join(["```python", *imports, "", *load, "```"])
    if form == "adapter":
        where = escaped(pretrained.source.name)
        code += f"\n\n`BASE` is the directory of the base model, {where}."
    return f"## Use\n\n{code}"


def _proof(proof: Proof) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in proof.versions.items())
    text = (
        f"After saving, a fresh process with {versions} and without Metronorm loaded it. At "
        f"{proof.positions:,} positions its float32 logits were compared with those of the live "
        "model:"
    )
    rows = [
        ("mean KL divergence, nats", f"{proof.divergence:.3g}"),
        ("same most probable token or label", percent(proof.agreement)),
        ("largest difference of two logits", f"{proof.largest_gap:.3g}"),
        ("largest logit", f"{proof.largest_logit:.3g}"),
    ]
    return f"## Proof\n\n{text}\n\n{_rows(('', ''), rows)}"


def _training(run: Run, summary: Summary) -> list[str]:
    info = run.info
    facts: list[tuple[str, object]] = [
        ("ticks", f"{summary.ticks:,}"),
        *((name, f"{count:,.0f}") for name, count in summary.counts.items()),
        ("time", hours_minutes(summary.seconds)),
        ("processes", summary.ranks),
        ("machine", summary.host),
        ("chosen for it", summary.machine),
    ]
    if summary.peak_memory_bytes:
        facts.append(("peak memory", size(summary.peak_memory_bytes)))
    if summary.forecast_memory_bytes:
        facts.append(("peak memory, forecast", size(summary.forecast_memory_bytes)))
    facts += [(name, version) for name, version in info.versions.items()]
    if info.git:
        facts.append(("commit", info.git.get("commit")))
    options = [
        (name, value) for name, value in flat(summary.config).items() if value not in ("", None, {})
    ]
    return [
        f"## Training\n\n{_rows(('', ''), facts)}",
        _curves(run, summary),
        f"## Options\n\n{_rows(('option', 'value'), options)}",
    ]


def _curves(run: Run, summary: Summary) -> str:
    """The losses over the ticks, as numbers: means over stretches of the training."""
    ticks = run.ticks()
    names = [name for name in summary.curves if name in ticks.columns]
    first, last = ticks.fetch("select min(tick), max(tick) from ticks")[0]
    rows: dict[int, dict[str, object]] = {}
    for name in names:
        for tick, mean in read_curve(ticks, name, stretches=CURVE_ROWS).points():
            stretch = (tick - first) * CURVE_ROWS // max(last - first + 1, CURVE_ROWS)
            row = rows.setdefault(stretch, {"tick": tick})
            row[name] = short_number(mean)
    cells = [[rows[each].get(name) for name in ("tick", *names)] for each in sorted(rows)]
    note = "Means over the ticks from this one on."
    return f"## Losses\n\n{note}\n\n{_rows(('tick', *names), cells)}"


def _table(table: CardTable) -> str:
    note = f"\n\n{escaped(table.note, 1000)}" if table.note else ""
    return f"## {escaped(table.title)}\n\n{_rows(table.columns, table.rows)}{note}"


def _rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [[escaped(each) for each in columns], ["---"] * len(columns)]
    lines += [["" if cell is None else escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
