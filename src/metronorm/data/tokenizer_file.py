"""Read the `tokenizer.json` of either tokenizer.

That of BPE has the format of the `tokenizers` library, as that of a model of Hugging Face.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from metronorm.data.bpe_tokenizer import BPETokenizer, tokenizers_library
from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.data.tokenizer import CONFIG_FILE
from metronorm.errors import DataError, MissingDependencyError
from metronorm.files import open_regular, read_regular
from metronorm.text import size

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.data.tokenizer import Tokenizer

_MOST_BYTES = 256 << 20  # eight times the largest known


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        DataError: the file is missing, damaged or no tokenizer.
        MissingDependencyError: the tokenizer is BPE, and the package `tokenizers` is not
            installed.
    """
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"more than {size(_MOST_BYTES)}")
        text = data.decode()
        content = json.loads(text)
        if isinstance(content, dict) and content.get("metronorm") == "characters":
            return CharTokenizer(str(content["characters"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_a_tokenizer(path, str(error)) from error
    try:
        return BPETokenizer(tokenizers_library().Tokenizer.from_str(text), _end_of(path))
    except MissingDependencyError:
        raise
    except DataError as error:
        raise DataError(error.must, got=f"{path}: {error.got}", fix=error.fix) from None
    except Exception as error:  # the library raises bare Exception
        raise _not_a_tokenizer(path, str(error)) from error


def _end_of(path: Path) -> str | None:
    """The token that ends a text, as the file beside a tokenizer of Hugging Face says it."""
    try:
        content = json.loads(read_regular(path.with_name(CONFIG_FILE)))
    except (OSError, ValueError, RecursionError):
        return None
    end = content.get("eos_token") if isinstance(content, dict) else None
    end = end.get("content") if isinstance(end, dict) else end
    return end if isinstance(end, str) else None


def _not_a_tokenizer(path: Path, reason: str) -> DataError:
    return DataError(
        "a tokenizer must be a readable tokenizer.json",
        got=f"{path}: {reason}",
        fix="prepare the text again, or another file",
    )
