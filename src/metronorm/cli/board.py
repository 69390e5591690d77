"""`metronorm board`: runs in the browser, while they are written and afterwards."""

from __future__ import annotations

import os
import re
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import tyro

from metronorm.cli.arguments import parse
from metronorm.errors import ConfigError
from metronorm.text import printable

TOKEN = "METRONORM_BOARD_TOKEN"
_LEAST_TOKEN = 20
_NEW_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
_PATH = re.compile(r"([\w.~-]+(/[\w.~-]+)*)?", re.ASCII)

DESCRIPTION = """
    metronorm board
    metronorm board runs/a runs/b --port 9000
    metronorm board runs --host 0.0.0.0 --no-open

It shows the runs in a folder, and those that begin later. Who has the address with its token gets
in, and nobody else; METRONORM_BOARD_TOKEN sets the token, as for a service. Ctrl-C stops it."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm board`."""

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[RUNS ...]", help_behavior_hint="(default: runs)"),
    ] = (Path("runs"),)
    """Folders that hold runs, or runs."""
    port: int | None = None
    """The port; by default 8765, or the next one that is free."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 lets other machines in, who need the token too."""
    allow_host: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A further name under which browsers reach the board, such as that of a proxy; repeatable."""
    root_path: str = ""
    """The path of the board behind a proxy, such as /board."""
    open: bool = True
    """Open the browser."""


def main(argv: list[str]) -> int:
    """Serve the board until Ctrl-C or SIGTERM."""
    arguments = parse(Arguments, argv, command="board", description=DESCRIPTION)
    _check(arguments)
    # FastAPI and uvicorn are loaded only now
    from metronorm.board import server as serving
    from metronorm.board.guard import Login

    login = Login(_given_token())
    address, taken = serving.listen(arguments.host, arguments.port)
    root = f"/{arguments.root_path.strip('/')}" if arguments.root_path.strip("/") else ""
    with address.socket:
        server = serving.make_server(
            arguments.runs,
            address,
            login,
            allow_hosts=arguments.allow_host,
            root_path=root,
        )
        if taken:
            _say(f"{taken}: the board takes port {address.port}")
        if serving.is_open(arguments.host):
            _say("other machines reach this board without encryption; docs/board.md has a proxy")

        def ready() -> None:
            print(f"the board is at {address.url}{root}/#token={quote(login.token, safe='')}")
            print("stop it with Ctrl-C", flush=True)
            if arguments.open and not _open(f"{address.url}{root}/#token={login.ticket()}"):
                _say("there is no browser: open the address by hand")

        serving.run(server, address, ready)
    return 0


def _check(arguments: Arguments) -> None:
    for path in arguments.runs:
        exists = os.path.exists(path)  # noqa: PTH110 - a name that is too long is no error here
        if exists and not path.is_dir():
            raise ConfigError(
                "the board shows folders that hold runs, or runs", got=f"{path}, a file", fix="runs"
            )
        if not exists:
            _say(f"{path} does not exist yet; its runs will be shown when they begin")
    if arguments.port is not None and not 0 <= arguments.port < 65_536:
        raise ConfigError("a port must be from 0 to 65535", got=str(arguments.port), fix="8765")
    names = arguments.root_path.strip("/")
    if not _PATH.fullmatch(names) or {".", ".."} & set(names.split("/")):
        raise ConfigError(
            "--root-path must be names of letters, digits, and . _ ~ -, with / between them",
            got=printable(repr(arguments.root_path)),
            fix="/board",
        )


def _given_token() -> str | None:
    token = os.environ.get(TOKEN)
    if token is not None and len(token) < _LEAST_TOKEN:
        raise ConfigError(
            f"{TOKEN} must have at least {_LEAST_TOKEN} characters, or nobody is kept out",
            got=f"{len(token)}",
            fix=_NEW_TOKEN,
        )
    if token is not None and not re.fullmatch("[!-~][ -~]*[!-~]", token):
        raise ConfigError(
            f"{TOKEN} must have letters, digits and signs of ASCII only, and no space at its ends",
            got="others",  # a log may be read by many
            fix=_NEW_TOKEN,
        )
    return token


def _open(url: str) -> bool:
    """Open a browser; False if there is none, or none that shows a window."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    if isinstance(browser, webbrowser.GenericBrowser) and not isinstance(
        browser, webbrowser.BackgroundBrowser
    ):
        return False  # it runs in this terminal, which the board needs
    return browser.open(url)


def _say(text: str) -> None:
    print(f"metronorm board: {printable(text)}", file=sys.stderr)
