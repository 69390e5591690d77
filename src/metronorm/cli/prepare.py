"""`metronorm prepare`: text to token files, with a short report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.cli.arguments import parse
from metronorm.data.config import TextConfig

if TYPE_CHECKING:
    from metronorm.data.corpus import Corpus
    from metronorm.data.text import TextDataset


def main(argv: list[str]) -> int:
    """Prepare the text that `argv` names and print what it came to. Returns the exit code.

    Raises:
        MetronormError: what cannot be prepared.
    """
    config = parse(
        TextConfig,
        argv,
        command="prepare",
        description="Turn text into token files, once; training then finds them in the cache.",
    )
    from metronorm.data.corpus import find_documents
    from metronorm.data.text import prepare  # numpy is loaded only now

    print(report(find_documents(config.data), prepare(config)))
    return 0


def report(corpus: Corpus, dataset: TextDataset) -> str:
    """What was found and what it became, in a few lines."""
    meta = dataset.meta
    whole = meta.train.bytes + meta.validation.bytes
    lines = [f"{'taken':<12}{_taken(corpus)}"]
    for name, split in (("training", meta.train), ("held out", meta.validation)):
        lines.append(
            f"{name:<12}{_counted(split.documents, 'document')}, {split.characters:,} characters, "
            f"{split.tokens:,} tokens ({split.bytes / whole:.1%})"
        )
    shown = [f"{'':<12}{name}" for name in meta.held_out[:8]]
    if len(meta.held_out) > len(shown):
        shown.append(f"{'':<12}and {len(meta.held_out) - len(shown):,} more")
    lines += shown
    lines.append(
        f"{'tokenizer':<12}{meta.tokenizer}, {meta.vocab_size:,} tokens, "
        f"{dataset.characters_per_token:.2f} characters per token"
    )
    lines.append(f"{'reused' if dataset.reused else 'built':<12}{dataset.directory}")
    return "\n".join(lines)


def _taken(corpus: Corpus) -> str:
    if corpus.is_default:
        return f"the works of Shakespeare, {_counted(len(corpus.documents), 'document')}"
    parts = [f"{count:,} {suffix or 'without ending'}" for suffix, count in corpus.suffixes.items()]
    taken = f"{_counted(len(corpus.documents), 'document')} ({', '.join(parts)})"
    if corpus.left_aside:
        taken += f"; {_counted(corpus.left_aside, 'file')} in the folders not: no text by the name"
    return taken


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
