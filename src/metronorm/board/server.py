"""The server of a board: its port, its names, and how it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import re
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import uvicorn

from metronorm.board.app import create_app
from metronorm.board.state import Board
from metronorm.errors import ConfigError
from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from metronorm.board.guard import Login

PORT, MOST_PORTS = 8765, 20  # the first port that is tried, and how many are
_HOST = re.compile(r"[\w.-]+|\[?[0-9a-fA-F:.]+:[0-9a-fA-F:.]*\]?", re.ASCII)
_EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Address:
    """Where a board listens: a socket, and its host and port."""

    socket: socket.socket
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address for a browser on this machine."""
        host = "127.0.0.1" if self.host in _EVERYWHERE else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def listen(host: str, port: int | None) -> tuple[Address, str | None]:
    """Take a port.

    Args:
        host: the name or address to listen on.
        port: the port; None: `PORT`, or the next one that is free.

    Returns:
        The address; and which port was taken, and by what, if it is not the first that was tried.

    Raises:
        ConfigError: the port is taken, or the host is none of this machine.
    """
    if not _HOST.fullmatch(host):  # some libraries take `*` for all addresses
        raise _wrong_host(host)
    first = PORT if port is None else port
    taken = None
    for each in range(first, first + (MOST_PORTS if port is None else 1)):
        try:
            bound = _bind(host, each)
            return Address(bound, host, bound.getsockname()[1]), taken
        except UnicodeError:  # no name can be so
            raise _wrong_host(host) from None
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise _wrong_host(host) from None
            if error.errno == errno.EACCES:
                raise ConfigError("the port must be one that you may use", got=str(each)) from None
            if error.errno != errno.EADDRINUSE:
                raise
            taken = taken or f"port {each}, which {user_of(each)} uses"
    raise ConfigError("the port must be free", got=taken, fix=f"--port {_free_port(host, first)}")


def _wrong_host(host: str) -> ConfigError:
    return ConfigError(
        "--host must be a name or address of this machine",
        got=printable(repr(host)),
        fix="127.0.0.1, or 0.0.0.0 for all",
    )


def _bind(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    family, kind, protocol, _, address = found
    # with the protocol, or asyncio would not switch off Nagle's delay of 40 ms
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    bound.set_inheritable(False)
    return bound


def _free_port(host: str, after: int) -> int:
    for port in range(after + 1, min(after + MOST_PORTS, 65_536)):
        with contextlib.suppress(OSError):
            _bind(host, port).close()
            return port
    with _bind(host, 0) as free:
        return int(free.getsockname()[1])


def user_of(port: int) -> str:
    """Which program listens on a port, as far as this user may see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,) and each.pid:
                command = shortened(printable(" ".join(psutil.Process(each.pid).cmdline())), 80)
                return f"process {each.pid} ({command})"
    return "another program"


def names_of(host: str, more: Sequence[str] = ()) -> set[str]:
    """The names that a board answers to, without ports.

    Args:
        host: what it listens on.
        more: other names that lead to it, such as that of a proxy.

    Raises:
        ConfigError: one of these is no name.
    """
    names = {"localhost", "127.0.0.1", "::1"}
    if not _is_loopback(host):
        names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    if host in _EVERYWHERE:
        names |= {
            found.address.partition("%")[0].lower()
            for addresses in psutil.net_if_addrs().values()
            for found in addresses
            if found.family in (socket.AF_INET, socket.AF_INET6)
        }
    for name in more:
        if not _HOST.fullmatch(name):
            raise ConfigError(
                "--allow-host must be the name of a host", got=repr(name), fix="board.example.org"
            )
        names.add(name.strip("[]").rstrip(".").lower())
    return names - set(_EVERYWHERE)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_open(host: str) -> bool:
    """Whether other machines reach a board that listens on this host."""
    return not _is_loopback(host)


class Server(uvicorn.Server):
    """uvicorn's server, for a board.

    When it ends, streams end first, so that it does not wait for them. Ctrl-C and SIGTERM are how
    a board ends, and no failure: the process goes on then.
    """

    def __init__(self, config: uvicorn.Config, board: Board) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending, self._should_exit = asyncio.Event(), False
        super().__init__(config)
        self._board = board

    @property
    def should_exit(self) -> bool:
        """Whether it ends; may be set by any thread and by a signal."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if value and self._loop is not None:
            self._loop.call_soon_threadsafe(self._ending.set)

    async def main_loop(self) -> None:
        """Wait for the end. uvicorn's own way looks for it ten times a second: 0.2% of a core."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # it sets the date of answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1)
        self._loop = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End with Ctrl-C and SIGTERM; uvicorn's own way kills the process afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the server."""
        await self._board.stream.close()
        await super().shutdown(sockets)


def make_server(
    roots: Sequence[Path],
    address: Address,
    login: Login,
    *,
    allow_hosts: Sequence[str] = (),
    root_path: str = "",
) -> Server:
    """A server that is ready to run.

    Args:
        roots: folders that hold runs, and runs.
        address: from `listen`.
        login: the token.
        allow_hosts: see `names_of`.
        root_path: see `create_app`.

    Raises:
        ConfigError: an argument is wrong.
        MissingDependencyError: the package was built without uPlot.
    """
    names = names_of(address.host, allow_hosts)
    board = Board(roots)
    try:
        app: Any = create_app(
            board,
            login=login,
            hosts=names,
            cookie=f"metronorm-board-{address.port}",
            root_path=root_path,
        )
    except BaseException:
        board.close()
        raise
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="none",
        server_header=False,
        # a local user could give any address in these headers
        proxy_headers=False,
        limit_concurrency=1000,
        timeout_graceful_shutdown=2,
    )
    return Server(config, board)


def run(server: Server, address: Address, ready: Callable[[], None]) -> None:
    """Serve until a signal comes.

    Args:
        server: from `make_server`.
        address: from `listen`.
        ready: called when the first page can be asked for.
    """

    async def serve() -> None:
        task = asyncio.create_task(server.serve(sockets=[address.socket]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready()
        await task

    asyncio.run(serve())
