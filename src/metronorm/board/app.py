"""The board as a web application: the page's files, the answers below `/api/`, and the guard.

| address | is |
| --- | --- |
| `/` | `page/index.html`, which holds no secret and is given without a login |
| `/page/...`, `/vendor/...` | the files of the page, and of uPlot: `page_files.py` |
| `/api/...` | what the page shows: `routes.py` and `array_routes.py` |
| `/api/login` | trades the token for a cookie |
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.responses import Response

from metronorm.board.answers import Json
from metronorm.board.array_routes import ARRAYS, array_routes
from metronorm.board.guard import Guard
from metronorm.board.opening import BAD_INPUT
from metronorm.board.page_files import PageFiles
from metronorm.board.routes import api, body, failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from metronorm.board.guard import Login
    from metronorm.board.state import Board

_YEAR_SECONDS = 365 * 86_400


def create_app(
    board: Board, *, login: Login, hosts: Collection[str], cookie: str, root_path: str = ""
) -> Guard:
    """The application of a board, for any ASGI server.

    Args:
        board: the runs and what is kept of them; closed when the application ends.
        login: the token.
        hosts: the names that the board answers to, without ports.
        cookie: the name of the cookie.
        root_path: what a proxy has before every path, such as `/board`.

    Raises:
        MissingDependencyError: the package was built without uPlot.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        board.close()

    # no pages that describe the interface: they load scripts of other sites
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        # the board sends nothing to anybody, whatever the environment says
        telemetry={"tracing": False, "logs": False, "metrics": False, "auto_configure": False},
    )
    # the stream is left alone, which is sent piece by piece, and so are arrays: packing takes
    # longer than reducing, and noise does not get smaller
    app.add_middleware(
        GZipMiddleware,
        minimum_size=1024,
        compresslevel=4,
        exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, ARRAYS),
    )
    for error in (*BAD_INPUT, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error, failure)

    files = PageFiles()

    async def static(request: Request) -> Response:
        return files.answer(request)

    for address in ("/", "/page/{name:path}", "/vendor/{name:path}"):
        app.add_route(address, static, methods=["GET"])

    @app.post("/api/login")
    async def log_in(request: Request) -> Response:
        given = await body(request)
        token = given.get("token") if isinstance(given, dict) else None
        address = request.client.host if request.client else ""
        answer = login.answer(token if isinstance(token, str) else "", address)
        if answer == "right":
            response = Response(status_code=204)
            response.set_cookie(
                cookie,
                login.session,
                max_age=_YEAR_SECONDS,
                path=f"{root_path}/",
                httponly=True,
                samesite="strict",
                secure=request.headers.get("origin", "").startswith("https:"),
            )
            return response
        if answer == "wait":
            problem = {"error": "there were too many wrong tokens", "fix": "wait for a minute"}
            return Json(problem, status_code=429, headers={"Retry-After": "60"})
        problem = {
            "error": "the token must be that of this board",
            "got": "another one, or one that was used up",
            "fix": "open the address that metronorm board printed",
        }
        return Json(problem, status_code=401)

    app.include_router(api(board))
    app.include_router(array_routes(board))
    return Guard(app, login=login, hosts=hosts, cookie=cookie, root_path=root_path)
