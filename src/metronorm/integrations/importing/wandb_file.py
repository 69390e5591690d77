"""W&B's `.wandb` files: what they hold of a run.

Their records are in the format of LevelDB's log: blocks of 32 KiB with pieces of records, each
behind its checksum (CRC-32 of kind and bytes), length and kind. Seven bytes at the very beginning
say what it is. Reference: https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError, MissingDependencyError
from metronorm.integrations.importing.history import Event
from metronorm.integrations.importing.rows import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BEGINNING = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_PIECE = struct.Struct("<IHB")
_BLOCK = 1 << 15
_WHOLE, _FIRST, _LAST = 1, 2, 4

OWN = ("_step", "_timestamp", "_runtime", "_wandb")


class WandbFile:
    """The records of a `.wandb` file, whole and undamaged ones only; iterate once.

    `unread` is how many bytes behind them cannot be read, once all are.

    Raises:
        DataError: it is another kind of file, while iterating.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unread = 0

    def __iter__(self) -> Iterator[bytes]:
        data = self.path.read_bytes()
        if not data.startswith(_BEGINNING):
            raise DataError("a .wandb file begins with W&B's mark", got=str(self.path))
        at = end = len(_BEGINNING)
        pieces: list[bytes] = []
        while at < len(data):
            left = _BLOCK - at % _BLOCK
            if left < _PIECE.size:  # too little for another piece: zeros
                at += left
                continue
            if at + _PIECE.size > len(data):
                break
            checksum, length, kind = _PIECE.unpack_from(data, at)
            at += _PIECE.size
            piece = data[at : at + length]
            at += length
            if len(piece) < length or zlib.crc32(piece, zlib.crc32(bytes((kind,)))) != checksum:
                break
            pieces = [piece] if kind in (_WHOLE, _FIRST) else [*pieces, piece]
            if kind in (_WHOLE, _LAST):
                end = at
                yield b"".join(pieces)
        self.unread = len(data) - end


class WandbLog:
    """What one `.wandb` file holds: rows of the history, and the run they are of.

    Raises:
        DataError: a damaged file, or another kind of file.
        MissingDependencyError: wandb is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from google.protobuf.message import DecodeError
            from wandb.proto.wandb_internal_pb2 import Record
        except ImportError:
            raise MissingDependencyError(
                "a .wandb file is read with the package wandb",
                fix="pip install wandb, or export the run's history as CSV, JSON or Parquet",
            ) from None
        self.path = path
        self.identity, self.name = path.stem, path.stem
        self.host: str | None = None
        self.began_ns = 0
        self.config: dict[str, Any] = {}
        self.rows: list[tuple[int, int, dict[str, Any]]] = []
        self.events: list[Event] = []
        self.samples: list[tuple[int, dict[str, float]]] = []
        self.end: dict[str, Any] | None = None
        file = WandbFile(path)
        for number, data in enumerate(file, 1):
            try:
                self._take(Record.FromString(data))
            except (DecodeError, json.JSONDecodeError):
                raise DataError(
                    "a .wandb file holds W&B's records", got=f"{path}, record {number}"
                ) from None
        self.notices = []
        if file.unread:
            self.notices.append(
                f"{path.name}: the last {file.unread:,} bytes are cut off or damaged, and were "
                "left out"
            )

    def _take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row: dict[str, Any] = {}
            _put(row, record.history.item)
            time_ns = round(row.get("_timestamp", 0) * 1e9)
            step = int(row.get("_step", record.history.step.num))
            self.rows.append((step, time_ns, {k: v for k, v in row.items() if k not in OWN}))
        elif kind == "stats":
            values: dict[str, Any] = {}
            _put(values, record.stats.item)
            self.samples.append((record.stats.timestamp.ToNanoseconds(), numbers(values)))
        elif kind == "run":
            run = record.run
            self.identity, self.host = run.run_id, run.host or None
            self.name = run.display_name or run.run_id
            self.began_ns = run.start_time.ToNanoseconds()
            _put(self.config, run.config.update)
        elif kind == "config":
            _put(self.config, record.config.update)
        elif kind == "alert":
            fields = {name: getattr(record.alert, name) for name in ("title", "text", "level")}
            self.events.append(Event("alert", self.rows[-1][1] if self.rows else 0, fields))
        elif kind == "exit":
            code = record.exit.exit_code
            self.end = {"error": f"exit code {code}", "message": ""} if code else {}
        self.config.pop("_wandb", None)


def _put(row: dict[str, Any], items: Iterable[Any]) -> None:
    """Put a record's items, nested names and values in JSON, into a nested dict."""
    for item in items:
        text = item.value_json
        try:
            value: Any = float(text)  # most are numbers, and this is the fastest that reads them
        except ValueError:
            value = json.loads(text)
        path = list(getattr(item, "nested_key", ())) or [item.key]
        inner = row
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
