"""The board behind a real nginx: the configuration of docs/board.md, with TLS and below a path."""

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from metronorm.board.server import listen

from .boards import TOKEN, Served, record, serving

# installed, or unpacked by `make test`
PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "nginx/usr/sbin")
NGINX = shutil.which("nginx", path=os.pathsep.join(str(Path(sys.prefix, it)) for it in PLACES))
OPENSSL = shutil.which("openssl")
PAGE = Path(__file__).parents[2] / "docs" / "board.md"
HOST = "board.example.org"

pytestmark = pytest.mark.skipif(
    NGINX is None or OPENSSL is None, reason="needs nginx and openssl: apt-get install nginx"
)

FRAME = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/1; uwsgi_temp_path {folder}/2; scgi_temp_path {folder}/3;
  {server}
}}
"""


def free_port() -> int:
    address, _ = listen("127.0.0.1", 0)
    address.socket.close()
    return address.port


@pytest.fixture(scope="module", params=["the path stays", "the path is taken away"])
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, httpx.Client]]:
    """A board, and a client of its proxy."""
    folder = tmp_path_factory.mktemp("proxied")
    record(folder / "runs" / "one", [1.0])
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(str(OPENSSL), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", certificate, "-subj", f"/CN={HOST}"),
            *("-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    with serving(folder / "runs", allow_hosts=[HOST], root_path="/board") as board:
        (server,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
        port = free_port()
        for old, new in (
            ("443", str(port)),
            ("8765", str(board.port)),
            ("/etc/ssl/private/board.pem", str(key)),
            ("/etc/ssl/certs/board.pem", str(certificate)),
        ):
            assert old in server
            server = server.replace(old, new)
        if request.param == "the path is taken away":
            server = server.replace(f"127.0.0.1:{board.port};", f"127.0.0.1:{board.port}/;")
        (folder / "nginx.conf").write_text(FRAME.format(folder=folder, server=server))
        nginx = subprocess.Popen([str(NGINX), "-c", folder / "nginx.conf", "-e", folder / "errors"])
        origin = f"https://{HOST}:{port}"
        client = httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            headers={"Host": f"{HOST}:{port}", "Origin": origin},
            verify=ssl.create_default_context(cafile=certificate),
            timeout=30,
        )
        try:
            while nginx.poll() is None:
                try:
                    client.get("/board/")
                    break
                except httpx.ConnectError:
                    continue
            yield board, client
        finally:
            nginx.terminate()
            nginx.wait()
            client.close()
        assert (folder / "errors").read_text() == ""


def test_the_page_is_below_the_path_and_its_links_are_relative(
    proxied: tuple[Served, httpx.Client],
) -> None:
    _, client = proxied
    page = client.get("/board/")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert len(links) > 3
    for link in links:
        assert not link.startswith("/")
        assert client.get(f"/board/{link}").status_code == 200
    moved = client.get("/board")
    assert moved.status_code in (301, 308)
    assert moved.headers["location"].endswith("/board/")


def test_login_runs_and_notes(proxied: tuple[Served, httpx.Client]) -> None:
    board, client = proxied
    assert client.get("/board/api/runs").status_code == 401
    answer = client.post("/board/api/login", json={"token": TOKEN})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/board/"} <= set(cookie.split("; "))
    signed_in = {"Cookie": cookie.partition(";")[0]}
    (run,) = client.get("/board/api/runs", headers=signed_in).json()["runs"]
    assert run["name"] == "one"
    notes = f"/board/api/runs/{run['id']}/notes"
    assert client.put(notes, json={"starred": True}, headers=signed_in).status_code == 200
    foreign = signed_in | {"Origin": "https://evil.example"}
    assert client.put(notes, json={"starred": False}, headers=foreign).status_code == 403
    assert board.runs()["one"]["starred"]


def test_the_stream_is_not_held_back(proxied: tuple[Served, httpx.Client]) -> None:
    board, client = proxied
    cookie = f"metronorm-board-{board.port}"
    headers = {"Cookie": f"{cookie}={board.client.cookies[cookie]}"}
    run = board.runs()["one"]["id"]
    with client.stream("GET", "/board/api/stream", headers=headers) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("id: ")
        assert next(lines) == "event: reset"
        board.client.put(f"/api/runs/{run}/notes", json={"note": "seen at once"})
        for line in lines:
            if line == "event: runs":
                break
        assert run in next(lines)
