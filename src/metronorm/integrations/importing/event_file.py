"""TensorBoard's event files: the records in them.

A record is its length (8 bytes, little-endian) and a checksum of that, its bytes and a checksum of
those (CRC-32C, masked as in TFRecord). TensorBoard's own reader yields the same records; of
checksums in plain Python it computes two a record, of which one is enough, and takes four times
as long. Its writer loads TensorFlow, where that is installed, which takes seconds and logs them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUFFER = 1 << 20


class EventFile:
    """The records of an event file, whole and undamaged ones only; iterate once.

    `unread` is how many bytes behind them cannot be read, once all are: the file was cut off
    there, as the death of its writer leaves it, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = self.unread = 0

    def __iter__(self) -> Iterator[bytes]:
        with open(self.path, "rb", buffering=_BUFFER) as file:
            size = self.size = self.path.stat().st_size
            end = 0
            while head := file.read(12):
                # a length that is not one is more than there is, or its bytes have another checksum
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
    """A record with these bytes, as it stands in a file."""
    length = len(data).to_bytes(8, "little")
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(4, "little")


def masked_crc32c(data: bytes) -> int:
    """The checksum that stands behind a record."""
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
