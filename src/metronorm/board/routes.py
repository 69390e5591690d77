"""What the board answers below `/api/`. The guard has checked a request before it comes here.

A run is named by its id in the list, never by a path. A metric is read only if it is asked for.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from metronorm import __version__
from metronorm.board import details
from metronorm.board.answers import Json, bounded, problem
from metronorm.board.listing import UnknownRunError
from metronorm.board.notes import change_notes
from metronorm.board.opening import open_checked
from metronorm.board.query import QueryError, parse
from metronorm.board.searching import search
from metronorm.board.series.axes import Axis  # noqa: TC001 - FastAPI reads it
from metronorm.board.series.moments import Moment
from metronorm.board.state import BusyError
from metronorm.board.values import KINDS, value_of
from metronorm.errors import ConfigError, MetronormError, OutOfMemoryError, RunError
from metronorm.files import is_inside
from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.board.entry import Entry
    from metronorm.board.state import Board
    from metronorm.runs import Run

MOST_COLUMNS, MOST_BODY = 100, 256 << 10
MOST_AHEAD = 50  # runs that are read before their chart is asked for
TABLE_SECONDS = 0.5  # after which the table has what was read until then
MOST_SAMPLE = 64 << 20  # bytes of a sample that is shown
_SAMPLE_TYPES = {
    "text": "text/plain; charset=utf-8",
    "table": "text/plain; charset=utf-8",
    "picture": "image/png",
    "audio": "audio/wav",
}


def api(board: Board) -> APIRouter:
    """The routes of a board."""
    router = APIRouter(
        prefix="/api", default_response_class=Json, dependencies=[Depends(board.look_for)]
    )
    listing = board.listing

    async def read(run: str, make: Callable[[Run], Any], *, key: str = "") -> Json:
        """An answer from the files of a run; kept under a key while they are the same."""
        entry = listing.entry(run)

        def answer() -> Any:
            return make(open_checked(entry.directory))

        if key:
            return Json(await board.call(board.kept, key, entry, answer))
        return Json(await board.call(answer))

    def chosen(runs: list[str]) -> list[Entry]:
        return [listing.entry(run) for run in runs] if runs else listing.entries()

    @router.get("/runs")
    async def runs() -> Json:
        await board.call(listing.look)
        await board.call(listing.wait_until_known, 0.1)
        now = time.time_ns()
        return Json(
            {
                "runs": [entry.listed(now) for entry in listing.entries()],
                "cursor": board.stream.cursor,
                "notices": [printable(notice) for notice in listing.notices],
                "roots": [printable(str(root)) for root in listing.roots],
                "version": __version__,
            }
        )

    @router.get("/table")
    async def table(
        columns: list[str] = Query([]),  # noqa: B008 - FastAPI's way
        runs: list[str] = Query([]),  # noqa: B008
    ) -> Json:
        if len(columns) > MOST_COLUMNS:
            raise ConfigError(f"a table has at most {MOST_COLUMNS} columns", got=str(len(columns)))
        pairs = [_column(column) for column in columns]
        entries = chosen(runs)
        metrics = sorted({name for kind, name in pairs if kind != "config"})

        def answer() -> dict[str, Any]:
            # before values are read: a run that is looked at meanwhile has not been read yet
            left = [one for one in entries if one.is_unread]
            left += board.values.read(entries, metrics, seconds=TABLE_SECONDS)
            return {
                "rows": {entry.id: _row(board, entry, pairs) for entry in entries},
                "waiting": [*dict.fromkeys(one.id for one in left)] if metrics else [],
            }

        return Json(await board.call(answer))

    @router.get("/columns")
    async def column_names(runs: list[str] = Query([])) -> Json:  # noqa: B008
        entries = chosen(runs)
        board.read_ahead(entries[:MOST_AHEAD] if runs else [])

        def answer() -> dict[str, Any]:
            configs = [entry.config() for entry in entries]
            options: dict[str, set[str]] = {}
            for config in configs:
                for name in config:
                    options.setdefault(name, set())
            for name, values in options.items():
                values.update(repr(config.get(name)) for config in configs)
            names, waiting = board.values.names(entries, seconds=TABLE_SECONDS)
            return {
                "metrics": names,
                "config": [*options],
                "differing": [name for name, values in options.items() if len(values) > 1],
                "waiting": len(waiting),
            }

        return Json(await board.call(answer))

    @router.get("/search")
    async def search_runs(q: str = "") -> Json:
        try:
            query = parse(q)
        except QueryError as error:
            return Json({**problem(error), "at": error.at})
        now = time.time_ns()
        found, left = await board.call(
            search, query, listing.entries(), board.values, board.not_finite, now
        )
        return Json({"ids": found, "waiting": left})

    @router.get("/stream")
    async def stream(request: Request, since: str = "") -> Response:
        if board.stream.is_full:
            raise BusyError("a board has room for a hundred pages", fix="close some")
        last = request.headers.get("last-event-id", since)
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        return StreamingResponse(
            board.stream.events(last), media_type="text/event-stream", headers=headers
        )

    @router.get("/runs/{run}")
    async def info(run: str) -> Json:
        entry = listing.entry(run)
        board.read_ahead([entry])
        answer = await read(run, details.info, key="info")
        return Json({"id": entry.id, **msgspec.json.decode(answer.body)})

    @router.get("/runs/{run}/events")
    async def events(
        run: str,
        begin: int | None = Query(None, alias="from"),
        end: int | None = Query(None, alias="to"),
        names: list[str] = Query([]),  # noqa: B008
        limit: int = Query(details.MOST_EVENTS, ge=1),
        x: Axis | None = None,
    ) -> Json:
        def answer(it: Run) -> dict[str, Any]:
            found = details.events(it, begin=begin, end=end, names=names, limit=limit)
            if x is not None:
                moments = [Moment(*map(one.get, Moment._fields)) for one in found["events"]]
                places = board.series(listing.entry(run)).places(moments, x)
                for one, place in zip(found["events"], places, strict=True):
                    one["x"] = place
            return found

        return await read(run, answer, key=f"events {begin} {end} {names} {limit} {x}")

    @router.get("/runs/{run}/slowest")
    async def slowest(run: str, n: int = Query(20, ge=1)) -> Json:
        return await read(run, lambda it: details.slowest(it, n), key=f"slowest {n}")

    @router.get("/runs/{run}/diagnosis")
    async def diagnosis(run: str) -> Json:
        return await read(run, details.diagnosis, key="diagnosis")

    @router.get("/runs/{run}/config")
    async def config(run: str) -> Json:
        return await read(run, details.config, key="config")

    @router.get("/runs/{run}/compare")
    async def compare(run: str, other: str = Query(alias="with")) -> Json:
        second = listing.entry(other)
        return await read(run, lambda it: details.comparison(it, open_checked(second.directory)))

    @router.get("/runs/{run}/samples")
    async def samples(run: str) -> Json:
        return await read(run, details.samples, key="samples")

    @router.get("/runs/{run}/samples/{number}")
    async def sample(run: str, number: int) -> Response:
        entry = listing.entry(run)
        return await board.call(_sample, entry, number)

    @router.put("/runs/{run}/notes")
    async def notes(run: str, request: Request) -> Json:
        entry = listing.entry(run)
        changes = await body(request)
        found = await board.call(change_notes, entry.directory, changes)
        await board.call(listing.refresh_notes, entry)
        return Json(msgspec.structs.asdict(found))

    return router


def _column(text: str) -> tuple[str, str]:
    """The kind and the name of a column of the table."""
    kind, _, name = text.partition(":")
    if kind not in (*KINDS, "config") or not name:
        raise ConfigError(
            f"a column is config:OPTION, or a metric with {', '.join(KINDS)}",
            got=repr(text),
            fix="last:loss",
        )
    return kind, name


def _row(board: Board, entry: Entry, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    if entry.damaged:
        return {}
    kinds = {kind for kind, _ in pairs}
    config = entry.config() if kinds & {"config", "best"} else {}
    row: dict[str, Any] = {}
    for kind, name in pairs:
        if kind == "config":
            if name in config:
                row[f"config:{name}"] = bounded({name: config[name]})[0].get(name)
        elif (value := board.values.known(entry, name)) is not None:
            row[f"{kind}:{name}"] = value_of(value, kind, name, config)
    return row


def _sample(entry: Entry, number: int) -> Response:
    found = open_checked(entry.directory).samples("full")
    if not 0 <= number < len(found):
        raise UnknownRunError("there must be such a sample", got=str(number))
    sample = found[number]
    if sample.path is not None:
        # a run may come from anybody, with a link to a file of the person who looks at it
        if not is_inside(sample.path, entry.directory):
            raise RunError("a sample must be in its run", got=f"{sample.path}, a link")
        if sample.path.exists() and sample.path.stat().st_size > MOST_SAMPLE:
            raise RunError("a sample of at most 64 MiB is shown", got=str(sample.path))
    name = re.sub(r"[^\w.-]+", "_", sample.path.name if sample.path else "text.txt", flags=re.A)
    return Response(
        sample.read(),
        media_type=_SAMPLE_TYPES[sample.kind],
        headers={
            "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
            "Content-Disposition": f'inline; filename="{name}"',
            "Cache-Control": "private, no-cache",
        },
    )


async def body(request: Request) -> Any:
    """The JSON that a request brings.

    Raises:
        ConfigError: it is no JSON, or is too long.
    """
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BODY:
            raise ConfigError(f"a request has at most {MOST_BODY >> 10} KiB")
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("a request must bring JSON", got=printable(str(error))) from None


def failure(_: Request, error: Exception) -> Json:
    """The answer to a request that cannot be fulfilled."""
    if isinstance(error, HTTPException):
        problems = {404: "there must be something at this address", 405: "the method must fit"}
        text = problems.get(error.status_code, str(error.detail))
        return Json({"error": text}, status_code=error.status_code, headers=error.headers)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        got = printable(shortened(repr(first.get("input")), 100))
        return Json({"error": f"{name}: {first['msg']}", "got": got}, status_code=400)
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        error = OutOfMemoryError("reading this takes more memory than there is")
    elif isinstance(error, duckdb.Error | msgspec.MsgspecError):
        error = RunError(
            "a run's files must be readable",
            got=str(error).partition("\n")[0],
            fix="metronorm seal RUN, which sets damaged parts aside",
        )
    elif isinstance(error, OSError):  # a file in the place of a folder, a loop of links, ...
        error = RunError(
            "a run's files must be readable", got=f"{error.filename}: {error.strerror or error}"
        )
    if not isinstance(error, MetronormError):  # the terminal has its traceback
        problem_of_ours = {"error": "this is a fault of the board", "got": type(error).__name__}
        return Json(problem_of_ours, status_code=500)
    status = 422
    if isinstance(error, UnknownRunError):
        status = 404
    elif isinstance(error, ConfigError):
        status = 400
    elif isinstance(error, BusyError | OutOfMemoryError):
        status = 503
    return Json(problem(error), status_code=status)
