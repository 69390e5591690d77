"""The command line: `metronorm COMMAND ...`. No logic of its own; every command is a module.

Exit codes: 0 done; 1 what `--fail-on` and `--fail-if-slower` were asked to find; 2 a mistake of the
user's, told in one line; 3 trained, but the last checkpoint could not be written (a full disk); 130
and 143 stopped by Ctrl-C and by SIGTERM, after saving; 141 nobody reads the output any more.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, TextIO

from metronorm import __version__
from metronorm.errors import MetronormError
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {
    "train": "train a language model on text, every tick on record",
    "sample": "let a trained model write",
    "show": "what runs did and cost, side by side",
    "watch": "a run while it is written, in the terminal",
    "diagnose": "what is wrong with a run, with evidence",
    "compare": "two runs, with what is noise and what is not",
    "seal": "finished stretches of tape to Parquet",
    "import": "a TensorBoard, W&B or trackio run into one of ours",
    "export": "a run to TensorBoard, CSV or Parquet",
    "prepare": "turn text into tokens, ahead of training",
}
_MODULES = {"import": "import_run"}  # where the command is no name that Python allows


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit code."""
    _open_what_is_closed()
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    try:
        with _any_encoding(sys.stdout):
            code = _run(name, arguments[1:])
            sys.stdout.flush()  # a reader that has gone is met here, and not at the exit
    except MetronormError as error:
        print(f"metronorm {name}: {printable(str(error))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _OPTIONAL:
            raise
        print(
            f"metronorm {name}: needs the package {error.name!r}; try: pip install "
            "'metronorm[train]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `metronorm show | head`
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _discard_output()
        says = f"the output must have room; got {error.strerror}"
        print(f"metronorm {name}: {says}", file=sys.stderr)
        return 2
    except Exception as error:
        if not _is_of_files(error):
            raise
        reason = printable(str(error).partition("\n")[0])
        says = f"a run's files must be readable; got {reason}; try: metronorm seal RUN, which puts "
        says += "parts aside that are damaged"
        if type(error).__name__ == "OutOfMemoryException":  # DuckDB's
            says = f"this takes more memory than there is; got {reason}; try: end other programs"
        print(f"metronorm {name}: {says}", file=sys.stderr)
        return 2
    return code


def _run(name: str, argv: list[str]) -> int:
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"metronorm {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"metronorm: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # a command's module is loaded only when it runs: the help comes at once
    module = importlib.import_module(f"metronorm.cli.{_MODULES.get(name, name)}")
    code: int = module.main(argv)
    return code


@contextlib.contextmanager
def _any_encoding(stream: TextIO) -> Iterator[None]:
    """Print characters that the terminal's encoding lacks as escapes, not as an error."""
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors="strict")


def _open_what_is_closed() -> None:
    """Let what is printed go nowhere where a stream was closed (`>&-`), as Python's print does.

    A file that a command opens would else get the stream's number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _discard_output() -> None:
    """Let what is still in the buffer go nowhere: at its exit Python would fail to write it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _is_of_files(error: Exception) -> bool:
    """Whether DuckDB met a damaged file, and no mistake of ours in a query."""
    kinds = type(error).__mro__
    return kinds[0].__module__ in ("duckdb", "_duckdb") and "ProgrammingError" not in {
        kind.__name__ for kind in kinds
    }


_OPTIONAL = ("numpy", "safetensors", "tokenizers", "torch")


def _help() -> str:
    lines = [f"  {name:<9} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        (
            "usage: metronorm COMMAND ...",
            "",
            "Ticks on record, gradients accumulated exactly, layer normalization done right.",
            "",
            *lines,
            "",
            "metronorm COMMAND --help says more.",
        )
    )
