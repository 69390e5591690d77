"""The records in TensorBoard's event files.

| bytes | content |
| --- | --- |
| 8 | the length n of the data, little-endian |
| 4 | the checksum of the length |
| n | the data |
| 4 | the checksum of the data |

Checksums are CRC-32C, masked as in TFRecord. TensorBoard's own reader yields the same records and
takes four times as long: it computes both checksums in Python, where one is enough. Its writer
loads TensorFlow if that is installed, which takes seconds.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUFFER = 1 << 20


class EventFile:
    """Yields the records of an event file up to the first one that is damaged; iterate once.

    Afterwards `size` is the size of the file in bytes, and `unread` the number of bytes at its end
    that cannot be read: the writer was killed while it wrote them, or the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = self.unread = 0

    def __iter__(self) -> Iterator[bytes]:
        with open(self.path, "rb", buffering=_BUFFER) as file:
            size = self.size = self.path.stat().st_size
            end = 0
            while head := file.read(12):
                # A damaged length is larger than the file, or the data fail their checksum.
                length = int.from_bytes(head[:8], "little")
                if end + 16 + length > size:
                    break
                data = file.read(length + 4)
                record = data[:length]
                if int.from_bytes(data[length:], "little") != masked_crc32c(record):
                    break
                end += 16 + length
                yield record
            self.unread = size - end


def record_of(data: bytes) -> bytes:
    """Return the record with these data, as it is in a file."""
    length = len(data).to_bytes(8, "little")
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(4, "little")


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of a length or of data."""
    crc = 0xFFFFFFFF
    pairs = _PAIRS
    for pair in struct.unpack_from(f"<{len(data) // 2}H", data):
        crc = pairs[(crc ^ pair) & 0xFFFF] ^ (crc >> 16)
    if len(data) % 2:
        crc = _BYTES[(crc ^ data[-1]) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _next(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, reversed
    return crc


_BYTES = [_next(byte) for byte in range(1 << 8)]
_PAIRS = [
    _BYTES[(once := _BYTES[low] ^ high) & 0xFF] ^ once >> 8
    for high in range(1 << 8)
    for low in range(1 << 8)
]
