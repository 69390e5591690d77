"""Shells: the script by which each completes `metronorm`, and where it looks for the script."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Literal, NamedTuple

import shtab

from metronorm.cli import COMMANDS
from metronorm.cli._option_list import Option, options_by_command
from metronorm.errors import ConfigError
from metronorm.files import write_atomic

Shell = Literal["bash", "zsh", "fish"]

_MARK = "AUTOMATICALLY GENERATED"  # is in every script of shtab


class Place(NamedTuple):
    """Where a shell looks for the script.

    Attributes:
        file: of the script.
        condition: what the shell needs to find it there; None: nothing.
    """

    file: Path
    condition: str | None = None


def script(shell: Shell) -> str:
    """The script; it holds all commands and options, and runs nothing of Metronorm."""
    text: str = shtab.complete(_parser(), shell=shell)
    return text if text.endswith("\n") else f"{text}\n"


def place(shell: Shell) -> Place:
    """Where the shell of this user looks."""
    home = Path.home()
    if shell == "bash":
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        file = data / "bash-completion" / "completions" / "metronorm"
        return Place(
            file, f"bash finds it by the package bash-completion; without: source {_short(file)}"
        )
    if shell == "zsh":
        file = Path(os.environ.get("ZDOTDIR") or home) / ".zfunc" / "_metronorm"
        return Place(
            file, f"in .zshrc, before compinit, there must be: fpath+=({_short(file.parent)})"
        )
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return Place(config / "fish" / "completions" / "metronorm.fish")


def install(shell: Shell) -> Place:
    """Write the script to its place, and change no other file.

    Raises:
        ConfigError: the place cannot be written, or has a file that is not such a script.
    """
    found = place(shell)
    try:
        found.file.parent.mkdir(parents=True, exist_ok=True)
        if found.file.exists() and _MARK not in found.file.read_text(errors="replace"):
            raise ConfigError(
                "only a script that was written by this command is replaced",
                got=f"{found.file}, which is another",
                fix="move it away",
            )
        write_atomic(found.file, script(shell).encode())
    except OSError as error:
        raise ConfigError(
            "the place of completions must be writable",
            got=f"{error.filename or found.file}: {error.strerror or error}",
            fix=f"metronorm completion {shell} > FILE",
        ) from None
    return found


def _short(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _parser() -> argparse.ArgumentParser:
    """A parser with all commands and options: what shtab writes scripts from."""
    parser = argparse.ArgumentParser("metronorm")
    parser.add_argument("--version", action="store_true", help="Print the version.")
    commands = parser.add_subparsers()
    for name, options in options_by_command().items():
        command = commands.add_parser(name, help=_escaped(COMMANDS[name]))
        for number, option in enumerate(options):
            _add(command, option, f"value{number}")
    return parser


def _add(command: argparse.ArgumentParser, option: Option, name: str) -> None:
    text = _escaped(option.help)
    if option.values == 0:
        command.add_argument(*option.flags, dest=name, action="store_true", help=text)
        return
    action = command.add_argument(
        *(option.flags or [name]),
        nargs="*" if option.values is None or not option.flags else option.values,
        choices=option.choices or None,
        help=text,
        **({"dest": name} if option.flags else {}),  # type: ignore[arg-type]
    )
    if option.is_path:
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
