"""What data need of a pretrained model before it is loaded: its tokenizer and its context."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metronorm.errors import DataError, MetronormError, MissingDependencyError
from metronorm.finetune.architectures import Kind, check_architecture
from metronorm.finetune.library import quietly
from metronorm.finetune.model_files import (
    ModelFiles,
    check_gguf_magic,
    check_weights,
    find_model,
    read_config,
)
from metronorm.memory import is_out_of_memory
from metronorm.scalars import is_number
from metronorm.text import printable, shortened

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class Vocabulary(NamedTuple):
    """What data need of a model before it is loaded.

    Attributes:
        tokenizer: of transformers.
        context: most tokens that the model sees at once.
    """

    tokenizer: Any
    context: int


def load_vocabulary(path: str | os.PathLike[str], kind: Kind = "causal") -> Vocabulary:
    """The tokenizer of a model and the size of its context, without its weights.

    What `load` would refuse without reading weights is refused: before data are read for it.

    Args:
        path: as for `load`.
        kind: as for `load`.

    Raises:
        ConfigError, DataError, MissingDependencyError: as `load`.
    """
    source = Path(path).expanduser()
    files = find_model(source)
    where: dict[str, Any] = {"gguf_file": files.gguf} if files.gguf else {}
    if files.gguf:
        check_gguf_magic(files)
    else:
        check_architecture(read_config(files), kind)
        check_weights(files)
    with quietly() as transformers:
        with explaining("a GGUF file" if files.gguf else "a model's config", source):
            config = transformers.AutoConfig.from_pretrained(
                files.directory, local_files_only=True, **where
            )
        check_architecture(config.to_dict(), kind)
        tokenizer = load_tokenizer(transformers, source, config, files)
    return Vocabulary(tokenizer, context_of(config, tokenizer))


def load_tokenizer(transformers: Any, source: Path, config: Any, files: ModelFiles) -> Any:
    """The tokenizer of a model; arguments as found on the way to `load`, errors as there."""
    where: dict[str, Any] = {"local_files_only": True}
    kind = transformers.AutoTokenizer
    if files.gguf is not None:
        where["gguf_file"] = files.gguf
        # AutoTokenizer makes the same one, but reads the whole file for it once more: 5 seconds.
        kind = transformers.PreTrainedTokenizerFast
    elif not any((files.directory / name).exists() for name in _TOKENIZERS):
        raise DataError(
            "a model must come with its tokenizer",
            got=f"no {' and no '.join(_TOKENIZERS)} in {source}",
            fix="download it from where the model is",
        )
    with explaining("a model's tokenizer", source):
        tokenizer = kind.from_pretrained(files.directory, **where)
    tokenizer.init_kwargs.pop("local_files_only", None)  # it would be saved with the tokenizer
    if len(tokenizer) > config.vocab_size:
        raise DataError(
            "a tokenizer must have at most as many tokens as the model has embeddings",
            got=f"{len(tokenizer):,} tokens and {config.vocab_size:,} embeddings in {source}",
            fix="the tokenizer that the model was trained with",
        )
    return tokenizer


def context_of(config: Any, tokenizer: Any) -> int:
    """Most tokens that a model sees at once."""
    most, longest = config.max_position_embeddings, tokenizer.model_max_length
    return int(min(most, longest) if is_number(longest) and longest > 0 else most)


@contextlib.contextmanager
def explaining(what: str, source: Path) -> Iterator[None]:
    """Turn whatever a library raises over a file into one line."""
    try:
        yield
    except MetronormError:
        raise
    except Exception as error:  # these libraries raise anything, also bare Exception
        if is_out_of_memory(error):
            raise
        if isinstance(error, ImportError):
            reason = str(error).strip().partition("\n")[0]
            raise MissingDependencyError(
                f"{what} needs a package", got=reason, fix="pip install 'metronorm[finetune]'"
            ) from None
        said = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        reason = shortened(said, 300) or type(error).__name__
        raise DataError(
            f"{what} must be readable",
            got=f"{source}: {printable(reason)}",
            fix="download the model again",
        ) from None
