"""The command line: `metronorm COMMAND ...`. It has no logic; every command is a module.

Exit codes:

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | `--fail-on` or `--fail-if-slower` found what it looks for; `doctor` found something broken |
| 2 | a mistake of the user's, reported in one line |
| 3 | trained, but the last checkpoint could not be written (a full disk) |
| 129, 130, 143 | stopped by a closed terminal, by Ctrl-C or by SIGTERM, after saving |
| 141 | nobody reads the output any more |
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
from metronorm.errors import ConfigError, MetronormError
from metronorm.text import nearest, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["COMMANDS", "main"]

# What each command does, in one sentence: `metronorm --help` lists it, the command's help begins
# with it.
COMMANDS = {
    "train": "Train a GPT on text, or a recipe's task, and record every tick.",
    "finetune": "Adapt a pretrained model to data, and save what others can load.",
    "tune": "Search for the options of a training, without waste.",
    "evaluate": "Evaluate a model on text, or a fine-tuned one beside its base.",
    "sample": "Write text with a trained model.",
    "chat": "Talk with a fine-tuned or a pretrained model.",
    "show": "Show what runs did and what they cost, side by side.",
    "runs": "List runs, tag them, put them away, delete them.",
    "watch": "Follow runs in the terminal while they are written.",
    "board": "Show runs in the browser, while they are written and afterwards.",
    "diagnose": "Find what is wrong with runs, with evidence and what to try.",
    "compare": "Compare two runs, and separate differences from noise.",
    "seal": "Turn finished stretches of tape into Parquet.",
    "import": "Import runs of TensorBoard, Weights & Biases or trackio.",
    "export": "Export ticks to TensorBoard, CSV or Parquet, or the model.",
    "prepare": "Turn text into tokens before training.",
    "doctor": "Report what is installed, on what machine, and what is broken.",
    "completion": "Complete commands and options in bash, zsh or fish.",
}
_MODULES = {"import": "import_run"}  # `import` is a keyword of Python

_EXAMPLES = """\
  metronorm train --data notes/*.txt    train on your own text
  metronorm watch runs/notes            follow the run in another terminal
  metronorm show runs/*                 see all runs in one table"""

# what `metronorm[EXTRA]` installs
_OPTIONAL = {
    **dict.fromkeys(("numpy", "safetensors", "tokenizers", "torch"), "train"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn"), "board"),
}

# what every installation has, unless it was made without what Metronorm depends on
_ALWAYS = (
    "docstring_parser",
    "duckdb",
    "msgspec",
    "packaging",
    "plotext",
    "psutil",
    "rich",
    "shtab",
    "textual",
    "tqdm",
    "tyro",
)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: the command and its arguments; None takes those of the process.
    """
    _replace_closed_streams()
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    command = f"metronorm {name}" if name in COMMANDS else "metronorm"
    try:
        with _escaping_unknown_characters(sys.stdout):
            code = _run(name, arguments[1:])
            sys.stdout.flush()  # finds here, and not at Python's exit, that the reader has gone
    except MetronormError as error:
        return 2 if error.is_told else _mistake(command, printable(str(error)))
    except ModuleNotFoundError as error:
        if error.name in _ALWAYS:
            fix = "pip install --force-reinstall metronorm"
        elif error.name in _OPTIONAL:
            fix = f"pip install 'metronorm[{_OPTIONAL[error.name]}]'"
        else:  # a part of one that is there is no matter of installing
            raise
        return _mistake(command, f"needs the package {error.name!r}; try: {fix}")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `metronorm show | head`
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _discard_output()
        return _mistake(command, f"the output must have room; got {error.strerror}")
    except Exception as error:
        message = _duckdb_message(error)
        if message is None:
            raise
        return _mistake(command, message)
    return code


def _run(name: str, argv: list[str]) -> int:
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"metronorm {__version__}")
        return 0
    if name not in COMMANDS:
        near = None if name.startswith("-") else nearest(name, COMMANDS)
        raise ConfigError(
            f"the command must be one of {', '.join(COMMANDS)}",
            got=repr(name),
            fix=f"metronorm {near or '--help'}",
        )
    # the module of a command is imported when the command runs: `--help` starts at once
    module = importlib.import_module(module_of(name))
    code: int = module.main(argv)
    return code


def module_of(name: str) -> str:
    """The name of the module that is a command."""
    return f"metronorm.cli.{_MODULES.get(name, name)}"


def _mistake(command: str, message: str) -> int:
    """Report a mistake of the user's in one line; the exit code."""
    print(f"{command}: {message}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def _escaping_unknown_characters(stream: TextIO) -> Iterator[None]:
    """Print characters that the terminal's encoding lacks as escapes, not as an error."""
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors="strict")


def _replace_closed_streams() -> None:
    """Discard what is printed to a stream that was closed (`>&-`), as Python's print does.

    Otherwise the next file that a command opens would get the number of the stream.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _discard_output() -> None:
    """Discard what is still in the buffer: Python would fail to write it at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _duckdb_message(error: Exception) -> str | None:
    """What to report of an error that DuckDB raised over a run's files.

    None: the error is not DuckDB's, or it is our mistake in a query.
    """
    kinds = type(error).__mro__
    names = {kind.__name__ for kind in kinds}
    if kinds[0].__module__ not in ("duckdb", "_duckdb") or "ProgrammingError" in names:
        return None
    reason = printable(str(error).partition("\n")[0])
    if "OutOfMemoryException" in names:
        return f"this takes more memory than there is; got {reason}; try: end other programs"
    return (
        f"a run's files must be readable; got {reason}; try: metronorm seal RUN, which sets "
        "damaged parts aside"
    )


def _help() -> str:
    commands = (f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items())
    return "\n".join(
        (
            "usage: metronorm COMMAND [ARGUMENTS]",
            "",
            "Record every tick of a training, accumulate gradients exactly, normalize right.",
            "",
            "commands:",
            *commands,
            "",
            "examples:",
            _EXAMPLES,
            "",
            "metronorm COMMAND --help explains the options of a command.",
        )
    )
