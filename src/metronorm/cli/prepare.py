"""`metronorm prepare`: turn text into token files, and print a short report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from metronorm.cli.arguments import parse, value_of
from metronorm.data.config import TextConfig
from metronorm.data.sources import COPIES
from metronorm.tasks.text import training_preset
from metronorm.text import counted, percent, printable

if TYPE_CHECKING:
    from metronorm.data.corpus import Corpus
    from metronorm.data.dataset import TextDataset

DESCRIPTION = """
    metronorm prepare --data notes/*.txt
    metronorm prepare --data notes/ --tokenizer bpe --vocab-size 4096

The token files go to a cache, where metronorm train finds them: give it the same options. Both
commands have the same defaults."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm prepare`."""

    text: Annotated[TextConfig, tyro.conf.arg(name="")] = field(default_factory=TextConfig)
    preset: str = "quick"
    """Sets the defaults of all other options, as in metronorm train: quick, small or gpt2."""


def main(argv: list[str]) -> int:
    """Prepare the text that `argv` names, and print a report.

    Args:
        argv: arguments of the command line, after `prepare`.

    Returns:
        The exit code.

    Raises:
        MetronormError: the text cannot be prepared.
    """
    preset = value_of("--preset", argv) or "quick"
    default = Arguments(training_preset(preset).text, preset)
    config = parse(
        Arguments, argv, command="prepare", description=DESCRIPTION, default=default
    ).text
    from metronorm.data.corpus import find_documents
    from metronorm.data.text import prepare  # here, because it loads numpy

    print(report(find_documents(config.data), prepare(config)))
    return 0


def report(corpus: Corpus, dataset: TextDataset) -> str:
    """Describe in a few lines which documents were found, and the tokens made of them.

    Args:
        corpus: the documents that were found.
        dataset: the tokens that were made of them.
    """
    meta = dataset.meta
    whole = meta.train.bytes + meta.validation.bytes
    lines = [f"{'read':<12}{_documents(corpus)}"]
    if left_out := _left_out(corpus, meta.copies):
        lines.append(f"{'left out':<12}{left_out}")
    for name, split in (("training", meta.train), ("held out", meta.validation)):
        lines.append(
            f"{name:<12}{counted(split.documents, 'document')}, {split.characters:,} characters, "
            f"{split.tokens:,} tokens ({percent(split.bytes / whole)})"
        )
    shown = [f"{'':<12}{printable(name)}" for name in meta.held_out[:8]]
    if len(meta.held_out) > len(shown):
        shown.append(f"{'':<12}and {len(meta.held_out) - len(shown):,} more")
    lines += shown
    lines.append(
        f"{'tokenizer':<12}{meta.tokenizer}, {meta.vocab_size:,} tokens, "
        f"{dataset.characters_per_token:.2f} characters per token"
    )
    lines.append(f"{'reused' if dataset.reused else 'built':<12}{dataset.directory}")
    return "\n".join(lines)


def _documents(corpus: Corpus) -> str:
    if corpus.is_default:
        return f"the works of Shakespeare, {counted(len(corpus.documents), 'document')}"
    parts = [
        f"{count:,} {printable(suffix) or 'without a suffix'}"
        for suffix, count in corpus.suffixes.items()
    ]
    return f"{counted(len(corpus.documents), 'document')} ({', '.join(parts)})"


def _left_out(corpus: Corpus, copies: int) -> str:
    kinds = {**corpus.left_out, COPIES: copies}
    return ", ".join(f"{kind}: {number:,}" for kind, number in kinds.items() if number)
