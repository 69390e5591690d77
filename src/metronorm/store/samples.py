"""Samples on disk: where their files are, and how pictures and audio become bytes.

    RUN/samples/attempt=0/rank=0/tick=500/NAME.txt      text
                                          NAME.png      a picture
                                          NAME.wav      audio
                                          NAME.jsonl    a table, one row a line

An event `sample` names each file. Only the standard library is used: the clock stays light.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["text", "picture", "audio", "table"]

SUFFIXES: dict[Kind, str] = {"text": ".txt", "picture": ".png", "audio": ".wav", "table": ".jsonl"}

_MOST_NAME_BYTES = 100  # with a suffix and what `files.file_aside` adds it is a name everywhere
# PNG's type of colour, by the number of channels: grey, RGB, RGB with transparency
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}


def sample_folder(attempt: int, rank: int, tick: int) -> PurePosixPath:
    """The folder of the samples of a tick, relative to the run's directory."""
    return PurePosixPath("samples", f"attempt={attempt}", f"rank={rank}", f"tick={tick}")


def sample_folders(directory: Path, rank: int) -> list[Path]:
    """The folders of all ticks in which a rank left samples, in any attempt."""
    return list((directory / "samples").glob(f"attempt=*/rank={rank}/tick=*"))


def file_stem(name: str) -> str:
    """The name of a file for any name of a sample: letters, digits, `.`, `-` and `_` only.

    It names no hidden file, no other folder, and is not empty.
    """
    return _safe(name).encode()[:_MOST_NAME_BYTES].decode(errors="ignore") or "sample"


def is_safe(file: str) -> bool:
    """Whether this may be the name of a sample's file: `file_stem` made it, with a suffix."""
    return file != "" and file == _safe(file)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".-")


def png(pixels: bytes, height: int, width: int) -> bytes:
    """A picture as a PNG file.

    Args:
        pixels: 8 bits for each of 1, 3 or 4 channels, pixel by pixel and row by row from the top.
        height: rows.
        width: pixels of a row.
    """
    size = len(pixels) // height
    # each row begins with the number of its filter; 0: none
    rows = b"".join(b"\0" + pixels[at : at + size] for at in range(0, len(pixels), size))
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[size // width], 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks.items())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def wav(frames: bytes, rate: int, channels: int) -> bytes:
    """Audio as a WAV file.

    Args:
        frames: 16 bits, little-endian, for each channel of each frame.
        rate: frames a second.
        channels: 1 or 2.
    """
    import wave  # only where there is audio

    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(frames)
    return file.getvalue()
