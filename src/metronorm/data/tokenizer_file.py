"""Read a `tokenizer.json` of either kind.

That of BPE is the file of the `tokenizers` library, so anything that reads those reads it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from metronorm.data.bpe_tokenizer import BPETokenizer, tokenizers_library
from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.data.tokenizer import Tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        DataError: a file that is missing, damaged or of another kind.
        MissingDependencyError: it is BPE and the package `tokenizers` is not installed.
    """
    try:
        text = path.read_text("utf-8")
        content = json.loads(text)
        if isinstance(content, dict) and content.get("metronorm") == "characters":
            return CharTokenizer(str(content["characters"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_a_tokenizer(path, str(error)) from error
    try:
        return BPETokenizer(tokenizers_library().Tokenizer.from_str(text))
    except MissingDependencyError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise _not_a_tokenizer(path, str(error)) from error


def _not_a_tokenizer(path: Path, reason: str) -> DataError:
    return DataError(
        "a tokenizer must be a readable tokenizer.json", got=f"{path}: {reason}", fix="prepare anew"
    )
