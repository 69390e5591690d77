"""What tyro reports of a command line, as one error that says what must hold and what to try."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile

from metronorm.cli._argv import value_of
from metronorm.errors import ConfigError
from metronorm.text import nearest

_RULE = re.compile(r"^[─-]{3,}$")
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "text"}
_MOST_SUGGESTIONS = 3


def config_error(box: str, argv: list[str], command: str) -> ConfigError:
    """The error that tyro printed in a box.

    | tyro's text | the error |
    | --- | --- |
    | Error parsing OPTION: ... | the value is of another kind |
    | invalid choice ... | the value is no choice of the option |
    | Missing value for argument ... | the option stands without a value |
    | Missing from ... | a required argument is missing |
    | Unrecognized options: ... | there is no such option or argument |
    | anything else | tyro's text on one line |

    Args:
        box: what tyro printed to standard error.
        argv: the arguments of the command, which tyro quotes only in part.
        command: "train".
    """
    sections = _sections(box)
    text, usage = " ".join(sections[0]), f"metronorm {command} --help"
    help_lines = sections[1] if len(sections) > 1 else []
    if found := re.match(r"Error parsing (\S+): (.*)", text):
        return _wrong_kind(found[1], found[2], help_lines, argv, usage)
    if found := re.match(r"invalid choice '(.*)' for argument '([^']+)'\. Expected one of", text):
        value, name = found.groups()
        choices = re.findall(r"'([^']*)'", text[found.end() :])
        return ConfigError(
            f"{name} must be one of {', '.join(choices)}",
            got=repr(value),
            fix=nearest(value, choices),
        )
    if found := re.match(r"Missing value for argument '([^']+)'. Expected (\d+)", text):
        return _no_value(found[1], found[2], argv, usage)
    if text.startswith("Missing from"):
        missing = [line for line in sections[0][1:] if re.fullmatch(r"[A-Z]+", line)]
        return ConfigError(f"{command} needs {' and '.join(missing)}", got="none", fix=usage)
    if text.startswith("Unrecognized options: "):
        return _unknown(text.partition(": ")[2], help_lines, command, usage)
    return ConfigError(" ".join(text.split()).rstrip("."), fix=usage)


def _sections(box: str) -> list[list[str]]:
    """The lines of the box, split where tyro draws a rule.

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


def _wrong_kind(
    name: str, reason: str, help_lines: list[str], argv: list[str], usage: str
) -> ConfigError:
    if help_lines[:1] != ["Argument helptext:"]:  # a dataclass raised it
        return ConfigError(reason)
    several = re.match(r"Could not parse arguments \[(.*)\] into", reason)
    value = several[1].replace("'", "") if several else value_of(name, argv) or reason
    metavar = help_lines[1].rpartition(" ")[2] if len(help_lines) > 1 else ""
    if metavar == "...]]":  # any number of values
        metavar = re.findall(r"[A-Z]+(?:\|[A-Z]+)*", help_lines[1])[-1]
        following = argv[argv.index(name) + 1 :] if name in argv else [value]
        value = ", ".join(takewhile(lambda each: not each.startswith("--"), following))
    kinds = [_KINDS.get(kind, kind.strip("{}")) for kind in reversed(metavar.split("|"))]
    return ConfigError(
        f"{name} must be {' or '.join(kinds)}",
        got=repr(value),
        fix=_whole(value) if "INT" in metavar else usage,
    )


def _no_value(name: str, number: str, argv: list[str], usage: str) -> ConfigError:
    if number != "1":
        return ConfigError(f"{name} needs {number} values", got="fewer", fix=usage)
    following = value_of(name, argv) or ""
    is_text = re.match(r"-(?!-[a-z])", following)  # not an option, but text that begins with a dash
    fix = f"{name}={shlex.quote(following)}" if is_text else usage
    return ConfigError(f"{name} needs a value", got="none", fix=fix)


def _unknown(arguments: str, help_lines: list[str], command: str, usage: str) -> ConfigError:
    """An option, or an argument too many.

    Args:
        arguments: those that tyro does not know, with commas between them.
        help_lines: options with near names and their help, if there are any.
        command: "train".
        usage: what to try where no option is near.
    """
    options = [argument for argument in arguments.split(", ") if argument.startswith("-")]
    near = []
    for line in help_lines:
        if line.startswith("--"):  # "--charts, --no-charts", or "--ticks INT"
            names = re.findall(r"--[\w.-]+", line)
            near.append(nearest(options[0], names) or names[0])
    fix = " or ".join([*dict.fromkeys(near)][:_MOST_SUGGESTIONS]) or usage
    if options and options[0].replace("_", "-") == "--trust-remote-code":
        return ConfigError(
            "--trust-remote-code is not offered: a model's own code could do anything on this "
            "machine, so none is run",
            fix="a model whose code transformers has",
        )
    if options:
        return ConfigError(f"there is no option {options[0]}", fix=fix)
    return ConfigError(f"{command} takes no such argument", got=arguments, fix=fix)


def _whole(value: str) -> str | None:
    """The whole number that is meant by "1e3"; None: the value is no whole number."""
    try:
        number = float(value)
    except ValueError:
        return None
    return str(int(number)) if number.is_integer() else None
