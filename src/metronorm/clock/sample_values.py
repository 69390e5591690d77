"""What can be a sample, and how it becomes the bytes of a file.

| a value | kind | file | of what is too long |
| --- | --- | --- | --- |
| text | text | UTF-8 | the end is cut, with a note |
| array (height, width) or (height, width, 1, 3 or 4) | picture | PNG, 8 bits | nothing is kept |
| array (frames,) or (frames, 1 or 2), with `rate` | audio | WAV, 16 bits | the end is cut |
| list of rows, or dictionary of columns | table | JSON lines | the last rows are left out |

`take` only copies the value, on the thread that trains; `Taken.encode` does the rest on another
thread. No framework is imported: an array is what has a shape and a dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metronorm.clock.device import begin_copy
from metronorm.errors import ConfigError
from metronorm.scalars import as_integer
from metronorm.store.run_config import to_json
from metronorm.store.samples import Kind, png, wav
from metronorm.store.tape import encode as json_line
from metronorm.text import size

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_BYTES = 4 << 20  # of one sample: of its text, 8-bit pixels, 16-bit audio, or JSON lines
_SHOWN = 500  # characters of a text in its event
_MOST_ROWS = 100_000  # of a table, so that copying them takes milliseconds
_CELL_BYTES = 64  # about what Python takes for a number in a dictionary
_HIGHEST_RATE = 1_000_000

_PICTURE = "a picture is an array (height, width) or (height, width, 3 or 4) of uint8 or floats"
_AUDIO = "audio is an array (frames,) or (frames, 1 or 2) of int16 or floats"


class TooLargeError(Exception):
    """A sample is larger than what one sample may take, and cannot be cut."""


@dataclass(frozen=True)
class Encoded:
    """A sample as it is written.

    `notes` are fields of its event: `text`, the beginning of a text, for live views;
    `left_out`, how many characters, frames or rows were cut; `outside`, how many numbers were NaN
    or out of their range.
    """

    data: bytes
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """A sample that nobody can change any more; `held_bytes` is about the memory it takes."""

    kind: Kind
    held_bytes: int
    encode: Callable[[], Encoded]


def take(value: Any, rate: Any = None) -> Taken:
    """Copy a value, as fast as possible.

    Args:
        value: see the table of this module.
        rate: frames of audio a second; None: the value is no audio.

    Raises:
        ConfigError: the value cannot be a sample.
        TooLargeError: it is a picture with too many pixels.
    """
    if not hasattr(value, "shape") and hasattr(value, "__array_interface__"):  # as pictures of PIL
        import numpy as np

        value = np.asarray(value)
    if rate is not None:
        return _take_audio(value, rate)
    if isinstance(value, str):
        return _take_text(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _take_picture(value)
    if isinstance(value, Mapping):
        return _take_rows(_rows_of_columns(value))
    if isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value):
        return _take_rows(value)
    raise ConfigError(
        "a sample is text, a picture or audio (an array), or a table (a list of dictionaries, or "
        "a dictionary of columns)",
        got=f"a {type(value).__name__}",
        fix="clock.log for numbers, frame.to_dict('records') for a data frame",
    )


# --- text and tables ----------------------------------------------------------------------------


def _take_text(text: str) -> Taken:
    data = text[:MOST_BYTES].encode(errors="replace")  # a lone surrogate has no bytes
    notes: dict[str, Any] = {"text": data[: 4 * _SHOWN].decode(errors="ignore")[:_SHOWN]}
    if len(text) > MOST_BYTES or len(data) > MOST_BYTES:
        kept = data[:MOST_BYTES].decode(errors="ignore")
        notes["left_out"] = len(text) - len(kept)
        data = f"{kept}\n[{notes['left_out']:,} more characters were left out]\n".encode()
    return Taken("text", len(data), lambda: Encoded(data, notes))


def _rows_of_columns(columns: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    try:
        values = [_plain_column(column) for column in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    except (TypeError, ValueError):
        raise ConfigError(
            "the columns of a table must have the same length",
            got=", ".join(f"{name}: {_length(each)}" for name, each in columns.items()),
        ) from None


def _plain_column(column: Any) -> list[Any]:
    if isinstance(column, str):
        raise TypeError("text is no column")
    return list(column.tolist() if hasattr(column, "tolist") else column)


def _length(column: Any) -> str:
    return f"{len(column):,}" if hasattr(column, "__len__") else f"a {type(column).__name__}"


def _take_rows(rows: list[Any] | tuple[Any, ...]) -> Taken:
    copied = [{name: _plain_cell(cell) for name, cell in row.items()} for row in rows[:_MOST_ROWS]]
    held = sum(_held(cell) for row in copied for cell in row.values())
    return Taken("table", held, lambda: _encode_rows(copied, len(rows)))


def _plain_cell(cell: Any) -> Any:
    """The cell itself, or plain values where it is an array that may change later."""
    return cell.tolist() if hasattr(cell, "tolist") else cell


def _held(cell: Any) -> int:
    return _CELL_BYTES * (1 + len(cell)) if hasattr(cell, "__len__") else _CELL_BYTES


def _encode_rows(rows: Iterable[dict[Any, Any]], count: int) -> Encoded:
    lines: list[bytes] = []
    room = MOST_BYTES
    for row in rows:
        line = json_line(to_json(row, other=str)[0])
        room -= len(line)
        if room < 0:
            break
        lines.append(line)
    left_out = count - len(lines)
    return Encoded(b"".join(lines), {"left_out": left_out} if left_out else {})


# --- arrays -------------------------------------------------------------------------------------


def _take_picture(value: Any) -> Taken:
    shape = tuple(value.shape)
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    if not fits or 0 in shape or not _has_dtype(value, "uint8", "bool"):
        raise ConfigError(
            _PICTURE,
            got=_described(value),
            fix="array.transpose(1, 2, 0), or tensor.permute(1, 2, 0), if channels come first; "
            "rate= if it is audio",
        )
    pixels = math.prod(shape)
    if pixels > MOST_BYTES:
        raise TooLargeError(f"a picture has at most {size(MOST_BYTES)} of 8-bit pixels")
    copy = _copy(value)
    return Taken("picture", _bytes_of(value), lambda: _encode_picture(copy()))


def _encode_picture(picture: Any) -> Encoded:
    import numpy as np

    notes: dict[str, Any] = {}
    if picture.dtype == bool:
        picture = picture.astype(np.uint8) * 255
    elif picture.dtype != np.uint8:
        picture, notes = _in_range(picture, 0.0)
        picture = np.rint(picture * 255).astype(np.uint8)
    return Encoded(png(picture.tobytes(), *picture.shape[:2]), notes)


def _take_audio(value: Any, rate: Any) -> Taken:
    shape = tuple(getattr(value, "shape", ()))
    fits = len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, 2))
    if not fits or not _has_dtype(value, "int16"):
        raise ConfigError(
            _AUDIO,
            got=_described(value),
            fix="array.transpose() if channels come first; no rate= if it is no audio",
        )
    rate_hz = as_integer(rate)
    if rate_hz is None or not 0 < rate_hz <= _HIGHEST_RATE:
        raise ConfigError(
            f"rate= is the frames of audio a second, from 1 to {_HIGHEST_RATE:,}", got=repr(rate)
        )
    channels = shape[1] if len(shape) == 2 else 1
    most = MOST_BYTES // (2 * channels)
    kept = value[:most]
    copy = _copy(kept)
    left_out = max(shape[0] - most, 0)
    return Taken(
        "audio", _bytes_of(kept), lambda: _encode_audio(copy(), rate_hz, channels, left_out)
    )


def _encode_audio(audio: Any, rate: int, channels: int, left_out: int) -> Encoded:
    import numpy as np

    notes = {"left_out": left_out} if left_out else {}
    if audio.dtype != np.int16:
        audio, outside = _in_range(audio, -1.0)
        audio = np.rint(audio * 32767)
        notes |= outside
    return Encoded(wav(audio.astype("<i2").tobytes(), rate, channels), notes)


def _in_range(array: Any, lowest: float) -> tuple[Any, dict[str, int]]:
    """Floats from `lowest` to 1: others become the nearest of these, and NaN becomes 0."""
    import numpy as np

    outside = array.size - int(np.count_nonzero((array >= lowest) & (array <= 1.0)))
    if not outside:
        return array, {}
    return np.clip(np.nan_to_num(array, nan=0.0), lowest, 1.0), {"outside": outside}


def _has_dtype(value: Any, *names: str) -> bool:
    name = _dtype(value)
    return name in names or name.startswith(("float", "bfloat"))


def _dtype(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    # (torch's dtypes have no name: "torch.float32")
    return str(getattr(dtype, "name", None) or str(dtype).rpartition(".")[2])


def _described(value: Any) -> str:
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"a {type(value).__name__} of shape {tuple(value.shape)} and dtype {_dtype(value)}"


def _bytes_of(value: Any) -> int:
    return int(getattr(value, "nbytes", 8 * math.prod(value.shape)))


def _copy(value: Any) -> Callable[[], Any]:
    """Copy an array, or begin to where it is on an accelerator.

    Returns:
        A function for another thread: it waits for the copy, and returns it as a NumPy array.
    """
    if hasattr(value, "copy_to_host_async"):  # an array of JAX never changes
        value.copy_to_host_async()
        return lambda: _numpy(value)
    if getattr(getattr(value, "device", None), "type", "cpu") != "cpu":
        arrive = begin_copy(value)
        return lambda: _numpy(arrive())
    if hasattr(value, "detach"):
        tensor = value.detach().clone()
        return lambda: _numpy(tensor)
    import numpy as np

    array = np.array(value)
    return lambda: array


def _numpy(value: Any) -> Any:
    import numpy as np

    # NumPy has no such floats, and few operations on those that others have added
    if _dtype(value).startswith(("bfloat", "float8")):
        value = value.float() if hasattr(value, "float") else value.astype("float32")
    return value.numpy() if hasattr(value, "numpy") else np.asarray(value)
