"""The answers that are arrays, in the form of `Reduced.to_bytes`: what charts draw.

Each is of one run, below `/api/runs/RUN/`, but for `/api/series`, which is of one or more: their
answers one after another, each behind 8 bytes with its length (little-endian). If one of more runs
cannot be read, `meta.error` of its answer says why.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from metronorm.board.opening import BAD_INPUT
from metronorm.board.routes import failure
from metronorm.board.series import Chart, Reduced, Stretch
from metronorm.board.series.axes import Axis  # noqa: TC001 - FastAPI reads it
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metronorm.board.series import RunSeries
    from metronorm.board.state import Board

T = TypeVar("T")
U = TypeVar("U")

ARRAYS = "application/octet-stream"
MOST_RUNS = 50  # in one request
Names = Annotated[list[str], Query(default_factory=list)]
Finite = Annotated[float, Query(allow_inf_nan=False)]


def stretch(
    begin: Annotated[float | None, Query(alias="from", allow_inf_nan=False)] = None,
    end: Annotated[float | None, Query(alias="to", allow_inf_nan=False)] = None,
    width: Finite = 1000,
) -> Stretch:
    """Which stretch of the run is shown, and on how many device pixels."""
    return Stretch(begin, end, width)


Shown = Annotated[Stretch, Depends(stretch)]


def chart(
    shown: Shown,
    left: Finite = 0,
    ratio: Finite = 1,
    smooth: Finite = 0,
    y: str = "linear",
    live: bool = False,
) -> Chart:
    """The same, and how lines are drawn in it."""
    return Chart(shown.begin, shown.end, shown.width, left, ratio, smooth, y, live)


Drawn = Annotated[Chart, Depends(chart)]


def array_routes(board: Board) -> APIRouter:
    """The routes; their arguments are those of the methods of `RunSeries`."""
    router = APIRouter(prefix="/api", dependencies=[Depends(board.look_for)])

    async def columns(
        run: str, request: Request, reduce: Callable[[RunSeries], Reduced], *, tagged: bool = True
    ) -> Response:
        """Arrays from the series of a run; if they are tagged, only if the page lacks them."""
        entry = board.listing.entry(run)

        def answer() -> Response:
            series = board.series(entry)
            return _arrays(
                request, series.cursor if tagged else None, lambda: reduce(series).to_bytes()
            )

        return await board.call(answer)

    def of_several(
        runs: list[str],
        names: list[str],
        request: Request,
        reduce: Callable[[RunSeries], Reduced],
    ) -> Response:
        def attempt(make: Callable[[T], U], source: T) -> U | Reduced:
            try:
                return make(source)
            except BAD_INPUT as error:
                if len(runs) == 1:
                    raise
                return Reduced(meta=msgspec.json.decode(failure(request, error).body))

        if len(runs) > 1:
            with contextlib.suppress(*BAD_INPUT):  # each answer says it
                board.read_together([board.listing.entry(run) for run in runs], names)
        found = [attempt(lambda run: board.series(board.listing.entry(run)), run) for run in runs]

        def answers() -> Iterator[bytes]:
            for each in found:
                reduced = each if isinstance(each, Reduced) else attempt(reduce, each)
                data = reduced.to_bytes()
                yield len(data).to_bytes(8, "little") + data

        cursors = [str(each.meta) if isinstance(each, Reduced) else each.cursor for each in found]
        tag = hashlib.sha256(" ".join(cursors).encode()).hexdigest()[:32]
        return _arrays(request, tag, lambda: b"".join(answers()))

    @router.get("/series")
    async def series(
        request: Request,
        runs: Names,
        names: Names,
        chart: Drawn,
        x: Axis = "tick",
        rank: int = 0,
        ghosts: bool = False,
    ) -> Response:
        if len(runs) > MOST_RUNS:
            raise ConfigError(f"one request is for at most {MOST_RUNS} runs", got=str(len(runs)))
        return await board.call(
            of_several,
            runs,
            names,
            request,
            lambda it: it.reduce(names, chart, x=x, rank=rank, ghosts=ghosts),
        )

    @router.get("/runs/{run}/resources")
    async def resources(
        run: str, request: Request, names: Names, chart: Drawn, x: Axis = "time", rank: int = 0
    ) -> Response:
        # the cursor is that of the ticks
        return await columns(
            run, request, lambda it: it.resources(names, chart, x=x, rank=rank), tagged=False
        )

    @router.get("/runs/{run}/phases")
    async def phases(run: str, request: Request, stretch: Shown, rank: int = 0) -> Response:
        return await columns(run, request, lambda it: it.phase_times(stretch, rank=rank))

    @router.get("/runs/{run}/ticktimes")
    async def tick_times(run: str, request: Request, stretch: Shown, rank: int = 0) -> Response:
        return await columns(run, request, lambda it: it.tick_times(stretch, rank=rank))

    @router.get("/runs/{run}/ranks")
    async def ranks(
        run: str, request: Request, stretch: Shown, value: Literal["wall", "arrival"] = "wall"
    ) -> Response:
        return await columns(run, request, lambda it: it.rank_times(stretch, value=value))

    @router.get("/runs/{run}/norms")
    async def norms(
        run: str, request: Request, stretch: Shown, stat: str | None = None, rank: int = 0
    ) -> Response:
        return await columns(run, request, lambda it: it.norms(stat, stretch, rank=rank))

    return router


def _arrays(request: Request, cursor: str | None, make: Callable[[], bytes]) -> Response:
    """The bytes, if the page does not have those of this cursor already; None: it never has."""
    if cursor is None:
        return Response(make(), media_type=ARRAYS)
    headers = {"Cache-Control": "private, no-cache", "ETag": f'"{cursor}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(make(), media_type=ARRAYS, headers=headers)
