"""What a file holds: a text, or records of which each has one. Its suffix tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from metronorm.data.compressed import COMPRESSED, inner_suffix, is_compressed
from metronorm.data.sources import TEXT_SUFFIXES
from metronorm.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["text", "json", "csv", "parquet", "arrow"]

RECORDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""What files of records are called."""

_IN_FOLDERS = (*TEXT_SUFFIXES, ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_SEEKED = ("parquet", "arrow")  # read from their end, or mapped: they cannot be unpacked meanwhile
_MAGIC = ((b"\x1f\x8b", ".gz"), (b"\x28\xb5\x2f\xfd", ".zst"), (b"PAR1", ".parquet"))


class _Description(msgspec.Struct):
    """What is read of `dataset_dict.json` and `state.json`."""

    splits: list[str] = []
    files: list[dict[str, str]] = msgspec.field(name="_data_files", default_factory=list)
    indices: list[dict[str, str]] | None = msgspec.field(name="_indices_data_files", default=None)


def kind_of(path: Path) -> Kind:
    """What a file holds; a text if its suffix says nothing.

    Raises:
        DataError: it is of a kind that is compressed in itself, and compressed again.
    """
    kind = RECORDS.get(inner_suffix(path), "text")
    if is_compressed(path) and kind in _SEEKED:
        raise DataError(
            f"a file of {kind} is compressed in itself",
            got=str(path),
            fix=f"unpack it: {'gunzip' if path.suffix.lower() == '.gz' else 'zstd -d'}",
        )
    return kind


def is_read_in_folders(path: Path) -> bool:
    """Whether a file is read where a folder that it is in is named, and not the file itself."""
    return inner_suffix(path) in _IN_FOLDERS


def suffix_of(path: Path) -> str:
    """The suffix of a file, with that of its compression: `.jsonl.zst`."""
    return "".join(path.suffixes[-2:]) if path.suffix.lower() in COMPRESSED else path.suffix


def saved_dataset(folder: Path) -> list[Path] | None:
    """The Arrow files of a data set that Hugging Face's library saved; None: it is none.

    Raises:
        DataError: it has several splits, or rows in another order than that of its files.
        OSError: its description cannot be read.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _described(folder / "dataset_dict.json").splits
        if len(splits) == 1:
            return saved_dataset(folder / splits[0])
        raise DataError(
            "a data set must be named with its split",
            got=f"{folder} with the splits {', '.join(splits)}",
            fix=" or ".join(str(folder / split) for split in splits[:2]) or None,
        )
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return None
    state = _described(folder / "state.json")
    if state.indices:
        raise DataError(
            "a data set must be saved with its rows in their order",
            got=f"{folder}, which has a list of rows beside them",
            fix="dataset.flatten_indices().save_to_disk(...)",
        )
    return [folder / each["filename"] for each in state.files]


def _described(path: Path) -> _Description:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Description)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError("a saved data set must be whole", got=f"{path}: {error}") from None


def sniffed(head: bytes) -> str:
    """The suffix that a file without a name should have, by its first bytes."""
    for magic, suffix in _MAGIC:
        if head.startswith(magic):
            return suffix
    line, _, rest = head.partition(b"\n")
    try:
        is_object = isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # a line may be longer than what is known of it
        is_object = not rest and line.lstrip().startswith(b'{"')
    return ".jsonl" if is_object else ".txt"
