"""`metronorm prepare`: turn text into token files, and print a short report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from metronorm.cli.arguments import parse, value_of
from metronorm.data.config import TextConfig
from metronorm.data.sources import COPIES
from metronorm.errors import ConfigError
from metronorm.tasks.text import training_preset
from metronorm.text import counted, percent, printable

if TYPE_CHECKING:
    from metronorm.data.build import Meta
    from metronorm.data.corpus import Corpus
    from metronorm.data.dataset import TextDataset
    from metronorm.data.ledger import Ledger

DESCRIPTION = """
    metronorm prepare --data notes/*.txt
    metronorm prepare --data notes/ --tokenizer bpe --vocab-size 4096
    metronorm prepare --data rows.jsonl.gz --column body
    metronorm prepare --list

The token files go to a cache, where metronorm train finds them: give it the same options. Both
commands have the same defaults."""


_Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm prepare`."""

    text: Annotated[TextConfig, tyro.conf.arg(name="")] = field(default_factory=TextConfig)
    preset: str = "quick"
    """Sets the defaults of all other options, as in metronorm train: quick, small or gpt2."""
    list: _Flag = False
    """List what is in the cache: name, size, age, and from what it was made."""
    clean: _Flag = False
    """List what is in the cache, ask, and remove it."""
    yes: _Flag = False
    """Remove without asking."""


def main(argv: list[str]) -> int:
    """Prepare the text that `argv` names, and print a report.

    Args:
        argv: arguments of the command line, after `prepare`.

    Returns:
        The exit code; 1 if the user does not agree to a removal.

    Raises:
        MetronormError: the text cannot be prepared.
    """
    preset = value_of("--preset", argv) or "quick"
    default = Arguments(training_preset(preset).text, preset)
    arguments = parse(Arguments, argv, command="prepare", description=DESCRIPTION, default=default)
    config = arguments.text
    if arguments.list or arguments.clean:
        return _cached(arguments)
    from metronorm.data.text import prepare_found  # here, because it loads numpy

    print(report(*prepare_found(config)))
    return 0


def _cached(arguments: Arguments) -> int:
    from metronorm.cli.cached_texts import clean, print_cached
    from metronorm.data.text import cache_folder

    if arguments.list and arguments.clean:
        raise ConfigError("the cache is listed or cleaned", got="--list and --clean")
    folder = cache_folder(arguments.text.cache)
    if arguments.clean:
        return clean(folder, yes=arguments.yes)
    print_cached(folder)
    return 0


def report(corpus: Corpus, dataset: TextDataset) -> str:
    """Describe in a few lines which documents were found, and the tokens made of them.

    Args:
        corpus: the documents that were found.
        dataset: the tokens that were made of them.
    """
    meta = dataset.meta
    whole = meta.train.bytes + meta.validation.bytes
    lines = [f"{'read':<12}{_documents(corpus, meta.ledger)}"]
    if left_out := _left_out(corpus, meta):
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
    if meta.ledger:
        lines.append(f"{'in all':<12}{_sum(meta.ledger, meta)}")
    lines += [
        f"{'source':<12}{printable(part.source)}: {counted(part.documents, 'document')}, "
        f"{part.tokens:,} tokens in training"
        for part in meta.parts
    ]
    lines.append(
        f"{'tokenizer':<12}{meta.tokenizer}, {meta.vocab_size:,} tokens, "
        f"{dataset.characters_per_token:.2f} characters per token"
    )
    lines.append(f"{'reused' if dataset.reused else 'built':<12}{dataset.directory}")
    return "\n".join(lines)


def _documents(corpus: Corpus, ledger: Ledger | None) -> str:
    if corpus.is_default:
        return f"the works of Shakespeare, {counted(len(corpus.documents), 'document')}"
    parts = [
        f"{count:,} {printable(suffix) or 'without a suffix'}"
        for suffix, count in corpus.suffixes.items()
    ]
    there = ", ".join(parts)
    if ledger is None or not corpus.has_rows:
        return f"{counted(len(corpus.documents), 'document')} ({there})"
    files = counted(len(corpus.documents), "file")
    return f"{counted(ledger.read.documents, 'document')} in {files} ({there})"


def _left_out(corpus: Corpus, meta: Meta) -> str:
    kinds = {**corpus.left_out, COPIES: meta.copies}
    if meta.ledger:
        left = {reason: count.documents for reason, count in meta.ledger.left_out.items()}
        kinds = {**meta.ledger.passed_over, **left}
    return ", ".join(f"{printable(kind)}: {number:,}" for kind, number in kinds.items() if number)


def _sum(ledger: Ledger, meta: Meta) -> str:
    """The ledger as a sum, in documents and in bytes."""
    left = ledger.left_out.values()
    documents, in_bytes = sum(one.documents for one in left), sum(one.bytes for one in left)
    cut = f" - {ledger.cut:,} cut in two" if ledger.cut else ""
    out = f" + {documents:,} left out" if documents else ""
    out_bytes = f" + {in_bytes:,}" if documents else ""
    return (
        f"{counted(ledger.read.documents, 'document')} = {meta.train.documents:,} in training + "
        f"{meta.validation.documents:,} held out{cut}{out}; "
        f"{ledger.read.bytes:,} bytes = {meta.train.bytes:,} + {meta.validation.bytes:,}{out_bytes}"
    )
