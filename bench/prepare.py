"""Preparing text: megabytes a second, and peak memory, for text, JSON lines in zstd, and Parquet.

The documents are lines of Shakespeare, drawn anew, about 3 KB each. What is timed is all from the
files to the token files: with characters (which are collected first), with BPE that is learned from
the text, and with a BPE that is ready. The same files by

- `datasets` and `tokenizers`: load_dataset, a batched map over all cores, and the ids written;
- nanochat's way: Parquet by row groups, encode_batch over all cores, and the ids written;
- nanoGPT's way: the whole text in memory, a dictionary of characters, and the ids written.

None of these holds out a share, looks for copies or counts what it leaves out, as ours does. Every
preparation is a process of its own; the cases take turns. Rows go to `results/prepare.csv`.

    python bench/prepare.py
    python bench/prepare.py --megabytes 30 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _rows import append

NAME = "prepare"
DOCUMENT_BYTES = 3000
VOCABULARY = 4096
GROUP_ROWS = 5000
FORMS = ("text", "jsonl.zst", "parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", nargs=4, metavar=("WAY", "FORM", "TOKENS", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.one:
        way, form, tokens, folder = arguments.one
        print(json.dumps(_one(way, form, tokens, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _write(folder, arguments.megabytes * 10**6)
        _make_tokenizer(folder)
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(arguments.repeats):
            for way, form, tokens in _cases():
                case = f"{arguments.megabytes} MB, {way}, {form}, {tokens}"
                runs = found.setdefault(case, [])
                runs.append(_measured(way, form, tokens, folder))
                if len(runs) == arguments.repeats:  # at once: the whole takes half an hour
                    append(NAME, case, "MB/s", [size / 1e6 / seconds for seconds, _ in runs])
                    append(NAME, f"{case}, peak memory", "MiB", [peak for _, peak in runs])


def _cases() -> list[tuple[str, str, str]]:
    ours = [
        ("metronorm", form, tokens)
        for form in FORMS
        for tokens in ("characters", "BPE learned", "BPE ready")
    ]
    theirs = [("datasets + tokenizers", form, "BPE ready") for form in ("jsonl.zst", "parquet")]
    return [
        *ours,
        *theirs,
        ("nanochat's way", "parquet", "BPE ready"),
        ("nanoGPT's way", "text", "characters"),
    ]


def _measured(way: str, form: str, tokens: str, folder: Path) -> tuple[float, float]:
    """Seconds, and the peak memory of the process and its own processes in MiB."""
    command = [sys.executable, __file__, "--one", way, form, tokens, str(folder)]
    found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return found["seconds"], found["mebibytes"]


def _one(way: str, form: str, tokens: str, folder: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        start = time.perf_counter()
        if way == "metronorm":
            _by_metronorm(folder, form, tokens, work)
        elif way == "datasets + tokenizers":
            _by_datasets(folder, form, work)
        elif way == "nanochat's way":
            _by_row_groups(folder, work)
        else:
            _by_dictionary(folder, work)
        return {"seconds": time.perf_counter() - start, "mebibytes": _peak()}


def _by_metronorm(folder: Path, form: str, tokens: str, work: Path) -> None:
    from metronorm.data import TextConfig, prepare

    ready = str(folder / "tokenizer.json") if tokens == "BPE ready" else ""
    prepare(
        TextConfig(
            data=(str(_source(folder, form)),),
            tokenizer="char" if tokens == "characters" else "bpe",
            vocab_size=VOCABULARY,
            tokenizer_file=ready,
            cache=work,
        )
    )


def _by_datasets(folder: Path, form: str, work: Path) -> None:
    os.environ["HF_DATASETS_CACHE"] = str(work)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its processes use the cores
    import datasets
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")

    def encoded(rows: Any) -> Any:
        return {"ids": [[*one.ids, end] for one in tokenizer.encode_batch_fast(rows["text"])]}

    datasets.disable_progress_bars()
    kind = "parquet" if form == "parquet" else "json"
    rows = datasets.load_dataset(kind, data_files=str(_source(folder, form)), split="train")
    rows = rows.map(encoded, batched=True, remove_columns=["text"], num_proc=_cores())
    with open(work / "train.bin", "wb") as file:
        for batch in rows.with_format("arrow").iter(1000):
            ids = batch["ids"].combine_chunks().flatten().to_numpy()
            file.write(ids.astype(np.uint16).tobytes())


def _by_row_groups(folder: Path, work: Path) -> None:
    import pyarrow.parquet
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    source = pyarrow.parquet.ParquetFile(_source(folder, "parquet"))
    with open(work / "train.bin", "wb") as file:
        for group in range(source.num_row_groups):
            texts = source.read_row_group(group).column("text").to_pylist()
            for first in range(0, len(texts), 128):
                for one in tokenizer.encode_batch(texts[first : first + 128]):
                    file.write(np.array([*one.ids, end], dtype=np.uint16).tobytes())


def _by_dictionary(folder: Path, work: Path) -> None:
    text = _source(folder, "text").read_text("utf-8")
    ids_of = {character: number for number, character in enumerate(sorted(set(text)))}
    cut = int(0.9 * len(text))
    for name, part in (("train", text[:cut]), ("validation", text[cut:])):
        np.array([ids_of[each] for each in part], dtype=np.uint16).tofile(work / f"{name}.bin")


def _write(folder: Path, size: int) -> int:
    """The documents in every form; their bytes together."""
    import pyarrow
    import pyarrow.parquet

    from metronorm.data.packages import installed

    works = installed("shakespeare", "_gut.txt")
    lines = [line for path in works for line in path.read_text("utf-8").splitlines() if line]
    chance = random.Random(0)
    schema = pyarrow.schema([("text", pyarrow.string())])
    written = 0
    with (
        open(_source(folder, "text"), "w", encoding="utf-8", newline="\n") as text,
        pyarrow.CompressedOutputStream(str(_source(folder, "jsonl.zst")), "zstd") as rows,
        pyarrow.parquet.ParquetWriter(_source(folder, "parquet"), schema) as groups,
    ):
        while written < size:
            group: list[str] = []
            while len(group) < GROUP_ROWS and written < size:
                document, length = [], 0
                while length < DOCUMENT_BYTES:
                    document.append(chance.choice(lines))
                    length += len(document[-1]) + 1
                group.append("\n".join(document))
                written += len(group[-1].encode())
            text.write("\n".join(group) + "\n")
            rows.write("".join(json.dumps({"text": one}) + "\n" for one in group).encode())
            groups.write_table(pyarrow.table({"text": group}, schema=schema))
    return written


def _make_tokenizer(folder: Path) -> None:
    from metronorm.data.bpe_tokenizer import train_bpe

    with open(_source(folder, "text"), encoding="utf-8") as file:
        train_bpe([file.read(20 << 20)], VOCABULARY).save(folder / "tokenizer.json")


def _source(folder: Path, form: str) -> Path:
    return folder / f"documents.{'txt' if form == 'text' else form}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _peak() -> float:
    """The peak memory of this process, and of the largest one that it waited for, in MiB."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if sys.platform == "darwin":
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + children) / 2**20
    # ru_maxrss of this process would begin with that of the process that started it
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return (own + children) / 2**10


if __name__ == "__main__":
    main()
