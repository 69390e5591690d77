"""Nobody but who has the token gets an answer, whatever their browser was made to send."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from metronorm.board.guard import Login, host_and_port

from .boards import TOKEN, Served, record, serving

ROUTES = [
    "/api/runs",
    "/api/table?columns=last:loss",
    "/api/columns",
    "/api/search?q=loss<1",
    "/api/stream",
    "/api/series?runs=RUN&names=loss",
    "/api/runs/RUN",
    "/api/runs/RUN/events",
    "/api/runs/RUN/slowest",
    "/api/runs/RUN/diagnosis",
    "/api/runs/RUN/config",
    "/api/runs/RUN/compare?with=RUN",
    "/api/runs/RUN/samples",
    "/api/runs/RUN/samples/0",
    "/api/no such route",
]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    record(folder / "one", [3.0, 2.0])
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def run(board: Served) -> str:
    return str(board.runs()["one"]["id"])


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_needs_the_cookie(board: Served, run: str, route: str) -> None:
    address = route.replace("RUN", run)
    cookie = f"metronorm-board-{board.port}"
    assert board.stranger.get(address).status_code == 401
    for value in ("", "x", TOKEN):
        headers = {"Cookie": f"{cookie}={value}"}
        assert board.stranger.get(address, headers=headers).status_code == 401
    other_port = {"Cookie": f"{cookie}1={board.client.cookies[cookie]}"}
    assert board.stranger.get(address, headers=other_port).status_code == 401
    assert "one" not in board.stranger.get(address).text.replace("a login", "")


@pytest.mark.parametrize("route", ["/", "/page/main.js", "/vendor/uPlot.min.css", *ROUTES])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": "user@127.0.0.1:{port}"},
        {"Host": ""},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
    ids=str,
)
def test_other_sites_get_nothing_even_with_the_cookie(
    board: Served, run: str, route: str, headers: dict[str, str]
) -> None:
    sent = {name: value.format(port=board.port) for name, value in headers.items()}
    answer = board.client.get(route.replace("RUN", run), headers=sent)
    assert answer.status_code in (400, 403)  # 400: uvicorn's own, for no Host
    assert "loss" not in answer.text


def test_the_answer_names_the_host_and_the_option_that_allows_it(board: Served) -> None:
    answer = board.client.get("/api/runs", headers={"Host": "Board.Example:80"})
    assert answer.json()["got"] == "the Host board.example"
    assert answer.json()["fix"].endswith("metronorm board --allow-host board.example")


def test_two_hosts_are_no_host(board: Served) -> None:
    with socket.create_connection(("127.0.0.1", board.port)) as connection:
        own = f"127.0.0.1:{board.port}"
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\n\r\n".encode())
        assert connection.recv(100).split()[1] in (b"400", b"403")


def test_a_link_on_another_site_opens_the_page_and_nothing_else(board: Served) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert board.stranger.get("/", headers=link).status_code == 200
    assert board.client.get("/api/runs", headers=link).status_code == 403


def test_own_names_and_origins_are_answered(board: Served) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST.", "[::1]"):
        own = {"Host": f"{name}:{board.port}", "Origin": f"http://{name}:{board.port}"}
        assert board.client.get("/api/runs", headers=own).status_code == 200
    fetched = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert board.client.get("/api/runs", headers=fetched).status_code == 200


def test_notes_are_changed_only_from_the_own_page_and_by_json(board: Served, run: str) -> None:
    address = f"/api/runs/{run}/notes"
    assert board.stranger.put(address, json={"starred": True}).status_code == 401
    foreign = {"Origin": "http://evil.example"}
    assert board.client.put(address, json={"starred": True}, headers=foreign).status_code == 403
    form = {"Content-Type": "text/plain"}
    plain = board.client.put(address, content=b'{"starred": true}', headers=form)
    assert plain.status_code == 415
    assert not board.runs()["one"]["starred"]
    assert board.client.put(address, json={"starred": True}, headers=board.origin).is_success
    assert board.runs()["one"]["starred"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(board: Served, run: str, method: str) -> None:
    for route in ("/", "/api/runs", f"/api/runs/{run}"):
        answer = board.client.request(method, route, json={})
        assert answer.status_code == 405
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_every_answer_has_a_strict_policy(board: Served, run: str) -> None:
    script = board.file("page/main.js")
    for route in ("/", script, "/api/runs", f"/api/runs/{run}", "/api/nothing", "/none"):
        headers = board.client.get(route).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(board: Served) -> None:
    answer = board.stranger.post("/api/login", json={"token": TOKEN})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"metronorm-board-{board.port}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    board.stranger.cookies.clear()


def test_behind_tls_the_cookie_is_for_tls_only(tmp_path: Path) -> None:
    with serving(tmp_path, allow_hosts=["board.example"]) as served:
        headers = {"Host": "board.example", "Origin": "https://board.example"}
        answer = served.stranger.post("/api/login", json={"token": TOKEN}, headers=headers)
        assert answer.status_code == 204
        assert "Secure" in answer.headers["set-cookie"]


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        for _ in range(10):
            assert served.stranger.post("/api/login", json={"token": "x"}).status_code == 401
        answer = served.stranger.post("/api/login", json={"token": "x"})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "60"
        forwarded = {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
        again = served.stranger.post("/api/login", json={"token": "x"}, headers=forwarded)
        assert again.status_code == 429
        assert served.client.get("/api/runs").status_code == 200  # who is in stays in
        answer = served.stranger.post("/api/login", json={"token": TOKEN})
        assert answer.status_code == 204, "nobody locks out others behind the same proxy"


class Now:
    """A clock that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_after_ten_wrong_tokens_within_a_minute_an_address_waits_but_the_right_one_passes() -> None:
    now = Now()
    login = Login(TOKEN, now=now)
    for _ in range(10):
        assert login.answer("x", "a") == "wrong"
    assert login.answer("x", "a") == "wait"
    assert login.answer("x", "b") == "wrong"
    assert login.answer(login.ticket(), "a") == "right"
    now.seconds = 59.9
    assert login.answer("x", "a") == "wait"
    assert login.answer(TOKEN, "a") == "right"
    now.seconds = 60.1
    assert login.answer("x", "a") == "wrong"


def test_many_addresses_cost_no_memory() -> None:
    login = Login(TOKEN)
    for number in range(3000):
        login.answer("x", str(number))
    assert len(login._failures) == 1000


def test_a_ticket_is_right_once_and_for_two_minutes() -> None:
    now = Now()
    login = Login(now=now)
    first, second, third = login.ticket(), login.ticket(), login.ticket()
    assert login.answer(second, "") == "right"
    assert login.answer(second, "") == "wrong"
    now.seconds = 119
    assert login.answer(first, "") == "right"
    now.seconds = 121
    assert login.answer(third, "") == "wrong"
    assert login.answer(login.token, "") == "right"


def test_tokens_are_long_and_differ_and_a_session_is_none() -> None:
    tokens = {Login().token for _ in range(10)}
    assert len(tokens) == 10
    assert all(len(token) >= 40 for token in tokens)
    login = Login(TOKEN)
    assert login.answer(login.session, "") == "wrong"
    assert not login.is_session(TOKEN)
    assert login.is_session(Login(TOKEN).session)  # of a board that was started again


@pytest.mark.parametrize(
    "token", ["", "é", "\ud800", "a\0b", TOKEN + " ", TOKEN.upper(), "x" * 9999]
)
def test_other_texts_are_no_token(token: str) -> None:
    assert Login(TOKEN).answer(token, "") == "wrong"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"3", b'{"token": 3}', b"{", b'{"token": null}', b"\xff"]
)
def test_a_login_of_any_form_is_answered(board: Served, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{board.url}/api/login", content=body, headers=headers)
    assert answer.status_code in (400, 401)
    assert board.client.get("/api/runs").status_code == 200


def test_a_login_of_any_length_is_answered(board: Served) -> None:
    headers = {"Content-Type": "application/json"}
    body = b'{"token": "' + b"x" * (1 << 20) + b'"}'
    assert httpx.post(f"{board.url}/api/login", content=body, headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("netloc", "found"),
    [
        ("localhost", ("localhost", 80)),
        ("LocalHost.:8765", ("localhost", 8765)),
        ("[::1]:1", ("::1", 1)),
        ("a@b", None),
        ("a:x", None),
        ("a:99999", None),
        ("", None),
        ("a/b", None),
        ("a?b", None),
        ("[::1", None),
        ("a b", ("a b", 80)),
    ],
)
def test_the_parts_of_a_host(netloc: str, found: tuple[str, int] | None) -> None:
    assert host_and_port(netloc, "http") == found
    assert host_and_port(netloc, "ftp") is None
