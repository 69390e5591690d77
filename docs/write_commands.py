"""Write the reference of the command line, `docs/commands/NAME.md`, from the help of each command.

    python docs/write_commands.py

So an option is described in one place, the docstring of its field.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

from metronorm.cli import COMMANDS, main

FOLDER = Path(__file__).with_name("commands")

_BOX = re.compile(r"^╭─ (.*?) ─*╮\n(.*?)^╰", re.MULTILINE | re.DOTALL)
_RULE = re.compile(r"^ ?─+\s*$")
# an option begins one space behind the border; its description, after at least two more
_OPTION = re.compile(r"^ (\S.*?)(?:\s{2,}(\S.*))?$")
_NAMED = re.compile(r"--[a-z][\w.-]*\w")
_CODE = re.compile(r"(`[^`]*`)")
_MARKS = re.compile(r"([\\*_<>\[\]{}$#|~])")


def pages() -> dict[str, str]:
    """The pages, by the name of the command."""
    return {name: page(name, help_of(name)) for name in COMMANDS}


def help_of(command: str) -> str:
    """What `metronorm COMMAND --help` prints on a terminal of 80 columns, whatever this one has.

    Raises:
        RuntimeError: it fails, as where a package is missing; the reason is on standard error.
    """
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            if main([command, "--help"]) != 0:
                raise RuntimeError(f"metronorm {command} --help must work")
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
    output.seek(0)
    return output.read()


def page(command: str, text: str) -> str:
    """The page of a command, as Markdown.

    Args:
        command: its name.
        text: its help.
    """
    head, _, _ = text.partition("╭")
    usage, sentence, *rest = head.strip().split("\n\n")
    paragraphs = [
        f"```text\n{_dedent(part)}\n```" if part.startswith(" ") else _plain(part) for part in rest
    ]
    parts = [
        f"# metronorm {command}",
        sentence,
        *paragraphs,
        f"```text\n{usage}\n```",
        f"```{{program}} metronorm {command}\n```",
    ]
    for title, content in _BOX.findall(text):
        lines = [line[1:-1].rstrip() for line in content.splitlines()]
        parts.append(f"## {title.capitalize()}")
        if any(_RULE.match(line) for line in lines):  # a description stands above the rule
            end = next(number for number, line in enumerate(lines) if _RULE.match(line))
            parts.append(_plain(" ".join(line.strip() for line in lines[:end])))
            lines = lines[end + 1 :]
        parts += [_option(name, description) for name, description in _options(lines)]
    return "\n\n".join(parts) + "\n"


def _options(lines: list[str]) -> list[tuple[str, str]]:
    """The options of a box, with their descriptions."""
    found: list[tuple[str, str]] = []
    for line in lines:
        option = _OPTION.match(line)
        if option:
            found.append((option[1], option[2] or ""))
        elif line.strip():
            name, description = found[-1]
            found[-1] = name, f"{description} {line.strip()}".strip()
    return found


def _option(name: str, description: str) -> str:
    return f"```{{option}} {name}\n:no-contents-entry:\n\n{_plain(description)}\n```"


def _plain(text: str) -> str:
    """Text without marks of Markdown, apart from code: options, and what is between backticks."""
    # what is code already stays; in the rest options become code
    given = _CODE.split(" ".join(text.split()))
    marked = [
        part if number % 2 else _NAMED.sub(r"`\g<0>`", part) for number, part in enumerate(given)
    ]
    parts = _CODE.split("".join(marked))
    return "".join(
        part if number % 2 else _MARKS.sub(r"\\\1", part) for number, part in enumerate(parts)
    )


def _dedent(text: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in text.splitlines())


if __name__ == "__main__":
    from write_reference import write

    write(FOLDER, pages())
