"""Who may ask the board: checked for every request, before any route sees it.

| a request | is answered with |
| --- | --- |
| whose `Host` is no name of this board | 403, and the option that allows the name |
| whose `Origin` is not its `Host` (`null` is none either) | 403 |
| that a browser sends from a page of another site, but for opening the page itself | 403 |
| that changes something, and is not JSON | 415 |
| below `/api/`, without the cookie of a login | 401 |
| `POST /api/login` with a wrong token | 401; after ten within a minute from one address, 429 |

The token is random, or is given by the environment. A browser gets it behind the `#` of an
address, which is never sent, and trades it for a cookie that scripts cannot read and other sites
cannot send. Nothing here trusts that an address is of this machine: other users and pages of other
sites reach it too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, MutableMapping
    from typing import Any

    Scope = MutableMapping[str, Any]
    App = Callable[..., Any]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
_LOGIN = "/api/login"
_FAILURES, _WINDOW_SECONDS, _MOST_ADDRESSES = 10, 60.0, 1000
_TICKET_SECONDS = 120.0
_DEFAULT_PORTS = {"http": 80, "https": 443}

Answer = Literal["right", "wrong", "wait"]


class Login:
    """The token of a board, and what has been tried to guess it.

    Args:
        token: the secret; None: a new one.
        now: returns seconds that only grow.
    """

    def __init__(
        self, token: str | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.token = token or secrets.token_urlsafe(32)
        # from the token, so that a cookie outlives a restart of a board whose token is given
        self.session = hmac.new(self.token.encode(), b"session", hashlib.sha256).hexdigest()
        self._now = now
        self._failures: dict[str, deque[float]] = {}
        self._tickets: dict[str, float] = {}

    def ticket(self) -> str:
        """A token that is right once, within two minutes: other users may see a browser's call."""
        ticket = secrets.token_urlsafe(32)
        self._tickets[ticket] = self._now() + _TICKET_SECONDS
        return ticket

    def answer(self, given: str, address: str) -> Answer:
        """Whether a token or ticket is right; "wait" if the address has guessed wrong too often.

        A right one always passes: behind a proxy all come from one address, and nobody may lock
        the others out. The token is too long to be guessed at any rate.
        """
        now = self._now()
        if _same(given, self.token) or self._use_ticket(given, now):
            return "right"
        failures = self._failures.get(address, deque())
        while failures and failures[0] <= now - _WINDOW_SECONDS:
            failures.popleft()
        if len(failures) >= _FAILURES:
            return "wait"
        failures.append(now)
        self._failures[address] = failures
        while len(self._failures) > _MOST_ADDRESSES:
            del self._failures[next(iter(self._failures))]
        return "wrong"

    def is_session(self, cookie: str) -> bool:
        """Whether a cookie is that of a login."""
        return _same(cookie, self.session)

    def _use_ticket(self, given: str, now: float) -> bool:
        found = [ticket for ticket in self._tickets if _same(given, ticket)]
        return any(self._tickets.pop(ticket) > now for ticket in found)


def _same(given: str, secret: str) -> bool:
    """Compare in a time that tells nothing of the secret, nor of its length."""
    digests = (hashlib.sha256(text.encode(errors="replace")).digest() for text in (given, secret))
    return hmac.compare_digest(*digests)


class Guard:
    """ASGI middleware with the checks of this module's table; it also adds the headers.

    Args:
        app: what answers the requests that are let through.
        login: the token and the sessions.
        hosts: the names and addresses of this board, in small letters and without a port.
        cookie: the name of the cookie.
        root_path: what a proxy has before every path, such as `/board`; "" for nothing.
    """

    def __init__(
        self, app: App, *, login: Login, hosts: Collection[str], cookie: str, root_path: str = ""
    ) -> None:
        self._app, self._login = app, login
        self._hosts, self._cookie, self._root_path = frozenset(hosts), cookie, root_path

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *(
                        (name.encode(), value.encode())
                        for name, value in _HEADERS.items()
                        if name.encode() not in there
                    ),
                ]
            await send(message)

        root = self._root_path
        if root and scope["path"] == root:  # relative addresses need the slash
            await _answer(send_with_headers, 308, b"", [(b"location", f"{root}/".encode())])
            return
        path = scope["path"]
        if root and path.startswith(f"{root}/"):  # the proxy may leave it there, or take it away
            path = path.removeprefix(root)
            scope = {**scope, "path": path, "raw_path": path.encode(errors="replace")}
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, problem = refusal
        await _answer(
            send_with_headers,
            status,
            msgspec.json.encode(problem),
            [(b"content-type", b"application/json")],
        )

    def _refusal(self, scope: Scope) -> tuple[int, dict[str, str]] | None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

        hosts = headers.get("host", [])
        host = host_and_port(hosts[0], "http") if len(hosts) == 1 else None
        if host is None or host[0] not in self._hosts:
            name = printable(host[0] if host else ", ".join(hosts) or "none")
            return 403, {
                "error": "a board answers only to its own names, so that no other site can ask it",
                "got": f"the Host {name}",
                "fix": f"if that is this machine: metronorm board --allow-host {name}",
            }
        foreign = self._foreign(headers, hosts[0], scope)
        if foreign is not None:
            return 403, {
                "error": "a board answers only to its own page",
                "got": foreign,
                "fix": "open the board itself; a proxy must pass the Host on as it comes",
            }
        kind = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
        if scope["method"] not in ("GET", "HEAD") and kind != "application/json":
            return 415, {
                "error": "what changes something must be application/json",
                "got": printable(kind) or "no content-type",
            }
        path = scope["path"]
        if path.startswith("/api") and path != _LOGIN and not self._is_logged_in(headers):
            return 401, {
                "error": "this needs a login",
                "got": "no cookie of this board",
                "fix": "open the address that metronorm board printed, or give its token",
            }
        return None

    def _foreign(self, headers: dict[str, list[str]], host: str, scope: Scope) -> str | None:
        """What shows that a request comes from another site; None if nothing does."""
        for origin in headers.get("origin", ()):
            parts = urlsplit(origin)
            own = host_and_port(host, parts.scheme)
            if own is None or host_and_port(parts.netloc, parts.scheme) != own:
                return f"the Origin {printable(origin)} for the Host {printable(host)}"
        site = headers.get("sec-fetch-site", ["none"])[0]
        if site in ("same-origin", "none"):
            return None
        # a link to the page, anywhere, may be followed
        opens = headers.get("sec-fetch-mode") == ["navigate"]
        framed = headers.get("sec-fetch-dest") != ["document"]
        if opens and not framed and scope["method"] == "GET" and scope["path"] == "/":
            return None
        return f"a request of another site (Sec-Fetch-Site: {printable(site)})"

    def _is_logged_in(self, headers: dict[str, list[str]]) -> bool:
        for line in headers.get("cookie", ()):
            try:
                found = SimpleCookie(line).get(self._cookie)
            except CookieError:
                continue
            if found is not None and self._login.is_session(found.value):
                return True
        return False


def host_and_port(netloc: str, scheme: str) -> tuple[str, int] | None:
    """The name and port of a `Host`, or of an address without what surrounds it; None: it has none.

    Args:
        netloc: such as `Board.example.:8765` or `[::1]`.
        scheme: "http" or "https"; it decides the port that is not named.
    """
    if scheme not in _DEFAULT_PORTS or "@" in netloc:
        return None
    try:
        parts = urlsplit(f"//{netloc}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not name or parts.netloc != netloc or parts.path:
        return None
    return name.rstrip("."), _DEFAULT_PORTS[scheme] if port is None else port


async def _answer(send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
