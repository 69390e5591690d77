"""Command lines become dataclasses, by tyro; the help of a command is laid out here."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from metronorm.cli import COMMANDS
from metronorm.cli._argv import check_paths, value_of
from metronorm.cli._tyro_errors import config_error
from metronorm.cli._tyro_fields import registry
from metronorm.errors import ConfigError

__all__ = ["RunPath", "RunPaths", "parse", "utf8", "value_of", "without"]

T = TypeVar("T")

RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
RunPaths = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
]

_WIDTH = 80
_NO_BREAK = "\N{NO-BREAK SPACE}"


def parse(
    kind: type[T], argv: list[str], *, command: str, description: str, default: T | None = None
) -> T:
    """An instance of the dataclass `kind` from the arguments of `metronorm COMMAND`.

    `--help` prints the help and exits: the usage, what the command does, the description, and
    every option with its docstring and default.

    Args:
        kind: its fields are the options.
        argv: the arguments that follow the command.
        command: a name in `COMMANDS`.
        description: examples, indented by four spaces, and paragraphs.
        default: values of the options that `argv` does not name; None takes those of `kind`.

    Raises:
        ConfigError: unknown options, or values that cannot work, in one line.
    """
    check_paths(argv)
    # tyro draws boxes if this is the encoding's name: "utf-8", and not "UTF-8"
    encoding = codecs.lookup(sys.stdout.encoding or "ascii").name
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=argv,
                prog=f"metronorm {command}",
                description="",
                default=tyro.MISSING_NONPROP if default is None else default,
                registry=registry,
            )
    except SystemExit as end:
        if end.code:
            raise config_error(complaint.getvalue(), argv, command) from None
        output.seek(0)  # after writing what is in the buffer
        description = f"{COMMANDS[command]}\n\n{description.strip(chr(10))}"
        print(_page(output.read(), description), flush=True)
        raise


def _page(tyro_help: str, description: str) -> str:
    """The help of a command, no wider than the terminal or 80 columns.

    Args:
        tyro_help: the usage, an empty line, and the options in boxes.
        description: paragraphs, which are wrapped, and indented lines, which stay.
    """
    usage, _, options = tyro_help.partition("\n\n")
    usage = re.sub(r"\[.*?\]", lambda found: found[0].replace(" ", _NO_BREAK), usage)
    width = min(shutil.get_terminal_size().columns, _WIDTH)
    paragraphs = [
        paragraph
        if paragraph.startswith(" ")
        else textwrap.fill(paragraph, width, break_on_hyphens=False)
        for paragraph in description.split("\n\n")
    ]
    usage = textwrap.fill(usage, width, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n\n".join([usage.replace(_NO_BREAK, " "), *paragraphs, options.strip()])


def without(option: str, argv: list[str]) -> list[str]:
    """The arguments without an option and its value."""
    left: list[str] = []
    values = iter(argv)
    for each in values:
        if each == option:
            next(values, None)
        elif not each.startswith(f"{option}="):
            left.append(each)
    return left


def utf8(text: str, name: str) -> str:
    """A text as it was typed, in UTF-8; bytes that the locale lacks came as lone surrogates.

    Raises:
        ConfigError: bytes that are no UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise ConfigError(f"{name} must be UTF-8 text", got=ascii(text)) from None
