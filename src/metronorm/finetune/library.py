"""The package transformers: imported when it is needed, and kept silent."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from typing import TYPE_CHECKING, Any

from metronorm.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator


def library(name: str = "transformers") -> Any:
    """A package that fine-tuning needs, or a module of it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"fine-tuning needs the package {error.name}", fix="pip install 'metronorm[finetune]'"
        ) from None


@contextlib.contextmanager
def quietly() -> Iterator[Any]:
    """Silence transformers inside the block: no logs, progress bars or warnings.

    Yields:
        The package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = library()
        logging = library("transformers.utils.logging")
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield package
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
