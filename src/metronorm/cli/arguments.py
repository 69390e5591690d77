"""Command lines into dataclasses by tyro, and its complaints into one line."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from itertools import pairwise
from typing import TypeVar

import tyro

from metronorm.errors import ConfigError

T = TypeVar("T")

_FOLDERS = ("--run", "--resume", "--cache")
_RULE = re.compile(r"^[─-]{3,}$")
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "text"}


def parse(
    kind: type[T], argv: list[str], *, command: str, description: str, default: T | None = None
) -> T:
    """An instance of the dataclass `kind` from the arguments of `metronorm COMMAND`.

    `--help` prints and exits.

    Raises:
        ConfigError: unknown options, or values that cannot work, in one line.
    """
    for option, value in pairwise([*argv, "--"]):
        if option == "--data" and value.startswith("--"):  # as where a shell's glob found nothing
            raise ConfigError("--data needs a file, a folder or a glob", got="none")
        name, equals, same = option.partition("=")
        if name in _FOLDERS and not (same if equals else value):  # as of a variable that is not set
            raise ConfigError(f"{name} needs a path", got="''", fix="'.' for the current folder")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=argv,
                prog=f"metronorm {command}",
                description=description,
                default=tyro.MISSING_NONPROP if default is None else default,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise _one_line(_sections(complaint.getvalue()), argv, command) from None


def _sections(box: str) -> list[list[str]]:
    """The lines of the box that tyro prints, split where it draws a rule.

    Without UTF-8 the box has no sides, and its title is a section of its own.
    """
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip("│ ")
        if _RULE.match(text):
            sections.append([])
        elif text and not line.startswith(("╭", "╰")):
            sections[-1].append(text)
    return sections if "│" in box else sections[1:]


def _one_line(sections: list[list[str]], argv: list[str], command: str) -> ConfigError:
    """What tyro complains of: what must hold, what arrived, what to try."""
    text, usage = " ".join(sections[0]), f"metronorm {command} --help"
    help_lines = sections[1] if len(sections) > 1 else []
    if found := re.match(r"Error parsing (\S+): (.*)", text):
        name, reason = found.groups()
        if help_lines[:1] != ["Argument helptext:"]:  # of a whole dataclass, which says it all
            return ConfigError(reason)
        several = re.match(r"Could not parse arguments \[(.*)\] into", reason)
        value = several[1].replace("'", "") if several else value_of(name, argv) or reason
        metavar = help_lines[1].rpartition(" ")[2] if len(help_lines) > 1 else ""
        kinds = [_KINDS.get(one, one.strip("{}")) for one in reversed(metavar.split("|"))]
        return ConfigError(
            f"{name} must be {' or '.join(kinds)}",
            got=repr(value),
            fix=_whole(value) if "INT" in metavar else usage,
        )
    if found := re.match(r"invalid choice '(.*)' for argument '([^']+)'\. Expected one of", text):
        value, name = found.groups()
        choices = re.findall(r"'([^']*)'", text[found.end() :])
        return ConfigError(f"{name} must be one of {', '.join(choices)}", got=repr(value))
    if found := re.match(r"Missing value for argument '([^']+)'. Expected (\d+)", text):
        name, number = found.groups()
        following = value_of(name, argv) or ""
        if re.match(r"-(?!-[a-z])", following):  # no option, but text that begins with a dash
            usage = f"{name}={shlex.quote(following)}"
        if number != "1":
            return ConfigError(f"{name} needs {number} values", got="fewer", fix=usage)
        return ConfigError(f"{name} needs a value", got="none", fix=usage)
    if text.startswith("Missing from"):
        missing = [line for line in sections[0][1:] if re.fullmatch(r"[A-Z]+", line)]
        return ConfigError(f"{command} needs {' and '.join(missing)}", got="none", fix=usage)
    if text.startswith("Unrecognized options: "):
        near = [line.split()[0] for line in help_lines if line.startswith("--")]
        unknown = [one for one in text.partition(": ")[2].split(", ") if one.startswith("-")]
        if unknown:
            what = f"there is no option {unknown[0]}"
        else:
            what = f"{command} takes no such argument"
        got = None if unknown else text.partition(": ")[2]
        return ConfigError(what, got=got, fix=" or ".join(dict.fromkeys(near)) or usage)
    return ConfigError(" ".join(text.split()).rstrip("."), fix=usage)


def value_of(name: str, argv: list[str]) -> str | None:
    """What the command line gives the option, "--ticks" or "--ticks/-t"; None: nothing."""
    for option in reversed(name.split("/")):
        for argument, following in pairwise([*argv, ""]):
            if argument.replace("_", "-") == option:
                return following
            if argument.replace("_", "-").startswith(f"{option}="):
                return argument.partition("=")[2]
    return None


def _whole(value: str) -> str | None:
    """The whole number that somebody means who writes 1e3."""
    try:
        number = float(value)
    except ValueError:
        return None
    return str(int(number)) if number.is_integer() else None
