"""Reads W&B's `.wandb` files.

Their records are in the format of LevelDB's log: blocks of 32 KiB with pieces of records. Seven
bytes at the beginning of the file identify it; they count to the first block. A piece is

| bytes | content |
| --- | --- |
| 4 | the checksum: CRC-32 of the kind and the data |
| 2 | the length n of the data |
| 1 | the kind: 1 a whole record, 2 its first piece, 3 a middle piece, 4 its last piece |
| n | the data |

Fewer than 7 bytes at the end of a block are zeros. All numbers are little-endian. Reference:
https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import DataError
from metronorm.integrations._packages import needs
from metronorm.integrations.axes import Times, step_of
from metronorm.integrations.importing.history import Event
from metronorm.integrations.importing.rows import numbers
from metronorm.integrations.importing.sources import damage_notice, left_out_notice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BEGINNING = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_PIECE = struct.Struct("<IHB")
_BLOCK = 1 << 15
_WHOLE, _FIRST, _LAST = 1, 2, 4
_decode = msgspec.json.Decoder().decode

OWN = ("_step", "_timestamp", "_runtime", "_wandb")  # W&B's own columns
_LEFT_OUT = {
    "artifact": "artifacts",
    "output": "console output",
    "output_raw": "console output",
    "use_artifact": "artifacts",
}


class WandbFile:
    """Yields the records of a `.wandb` file up to the first one that is damaged; iterate once.

    Afterwards `size` is the size of the file in bytes, and `unread` the number of bytes at its end
    that cannot be read.

    Raises:
        DataError: while iterating: it is another kind of file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = self.unread = 0

    def __iter__(self) -> Iterator[bytes]:
        data = self.path.read_bytes()
        if not data.startswith(_BEGINNING):
            raise DataError("a .wandb file begins with W&B's mark", got=str(self.path))
        at = end = len(_BEGINNING)
        pieces: list[bytes] = []
        while at < len(data):
            left = _BLOCK - at % _BLOCK
            if left < _PIECE.size:  # only zeros
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
        self.size, self.unread = len(data), len(data) - end


class WandbLog:
    """The contents of one `.wandb` file: the run, and rows of its history.

    W&B has no public reader for these files. The record's class is the only name of the package
    wandb that is used: `wandb.proto.wandb_internal_pb2.Record`, read in wandb 0.31; the tests with
    files that wandb has written fail when it has changed.

    Raises:
        DataError: it is another kind of file.
        MissingDependencyError: wandb is not installed.
    """

    def __init__(self, path: Path) -> None:
        fix = "pip install wandb, or export the run's history as CSV, JSON or Parquet"
        with needs("wandb", "google", what="a .wandb file", fix=fix):
            from google.protobuf.message import DecodeError
            from wandb.proto.wandb_internal_pb2 import Record
        self.path = path
        self.identity, self.name = path.stem, path.stem
        self.host: str | None = None
        self.began_ns = 0
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.rows: list[tuple[int, int | None, dict[str, Any]]] = []
        self.events: list[Event] = []
        self.samples: list[tuple[int, dict[str, float]]] = []
        self.end: dict[str, Any] | None = None
        self._times = Times()
        unread: Counter[str] = Counter()
        file = WandbFile(path)
        for data in file:
            try:
                record = Record.FromString(data)
                self._take(record)
            except DecodeError:
                unread["records"] += 1
            except (AttributeError, TypeError, ValueError, RecursionError):
                unread[record.WhichOneof("record_type")] += 1
            else:
                unread[_left_out(record)] += 1
        del unread[""]
        self.notices = [f"{path.name}: {notice}" for notice in self._times.notices()]
        self.notices += damage_notice(path, file.unread, file.size)
        self.notices += left_out_notice(unread, f"{path.name}: ")

    def _take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = _items(record.history.item)
            step = step_of(row.get("_step", record.history.step.num))
            if step is None:
                raise ValueError
            time_ns = self._times.read(row.get("_timestamp"))
            self.rows.append((step, time_ns, {k: v for k, v in row.items() if k not in OWN}))
        elif kind == "summary":
            _put(self.summary, record.summary.update)
            for item in record.summary.remove:
                self.summary.pop(item.key, None)
        elif kind == "stats":
            values = numbers(_items(record.stats.item))
            self.samples.append((record.stats.timestamp.ToNanoseconds(), values))
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
            times = [time_ns for _, time_ns, _ in self.rows if time_ns is not None]
            self.events.append(Event("alert", times[-1] if times else self.began_ns, fields))
        elif kind == "exit":
            code = record.exit.exit_code
            self.end = {"error": f"exit code {code}", "message": ""} if code else {}
        self.config.pop("_wandb", None)
        self.summary.pop("_wandb", None)


def _left_out(record: Any) -> str:
    """Return what a record holds of its user's that no run can hold; "" if it is W&B's own."""
    kind = record.WhichOneof("record_type")
    if kind == "files":
        return "files" if any(file.type == file.OTHER for file in record.files.files) else ""
    return _LEFT_OUT.get(kind, "")


def _items(items: Iterable[Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    _put(row, items)
    return row


def _put(row: dict[str, Any], items: Iterable[Any]) -> None:
    """Put a record's items, which are nested names with values in JSON, into a nested dict."""
    for item in items:
        value = _value(item.value_json)
        path = list(getattr(item, "nested_key", ())) or [item.key]
        inner = row
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value


def _value(text: str) -> Any:
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return json.loads(text)  # it accepts NaN and Infinity
