"""The answers below `/api/runs/RUN/` that are arrays: what the charts of a run draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from metronorm.board.series.axes import Axis  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.board.series import Reduced, RunSeries
    from metronorm.board.state import Board

Names = Annotated[list[str], Query(default_factory=list)]


def stretch(
    begin: Annotated[float | None, Query(alias="from")] = None,
    end: Annotated[float | None, Query(alias="to")] = None,
    width: float = 1000,
) -> dict[str, Any]:
    """Which stretch of the run is shown, and on how many device pixels."""
    return {"begin": begin, "end": end, "width": width}


Stretch = Annotated[dict[str, Any], Depends(stretch)]


def chart(
    stretch: Stretch,
    left: float = 0,
    ratio: float = 1,
    smooth: float = 0,
    y: str = "linear",
    rank: int = 0,
    live: bool = False,
) -> dict[str, Any]:
    """What `RunSeries.reduce` and `RunSeries.resources` both take."""
    own = {"left": left, "ratio": ratio, "smooth": smooth, "y": y, "rank": rank, "live": live}
    return stretch | own


Chart = Annotated[dict[str, Any], Depends(chart)]


def array_routes(board: Board) -> APIRouter:
    """The routes; their arguments are those of the methods of `RunSeries`."""
    router = APIRouter(prefix="/api")

    async def columns(
        run: str, request: Request, reduce: Callable[[RunSeries], Reduced], *, tagged: bool = True
    ) -> Response:
        """Arrays from the series of a run; if they are tagged, only if the page lacks them."""
        entry = board.listing.entry(run)
        given = request.headers.get("if-none-match")

        def answer() -> Response:
            series = board.series(entry)
            if tagged and given == f'"{series.cursor}"':
                return Response(status_code=304, headers={"ETag": given})
            data = reduce(series).to_bytes()
            headers = {"Cache-Control": "private, no-cache", "ETag": f'"{series.cursor}"'}
            return Response(
                data, media_type="application/octet-stream", headers=headers if tagged else None
            )

        return await board.call(answer)

    @router.get("/runs/{run}/series")
    async def series(
        run: str,
        request: Request,
        names: Names,
        chart: Chart,
        x: Axis = "tick",
        ghosts: bool = False,
    ) -> Response:
        return await columns(run, request, lambda it: it.reduce(names, x=x, ghosts=ghosts, **chart))

    @router.get("/runs/{run}/resources")
    async def resources(
        run: str, request: Request, names: Names, chart: Chart, x: Axis = "time"
    ) -> Response:
        # the cursor is that of the ticks
        return await columns(
            run, request, lambda it: it.resources(names, x=x, **chart), tagged=False
        )

    @router.get("/runs/{run}/phases")
    async def phases(run: str, request: Request, stretch: Stretch, rank: int = 0) -> Response:
        return await columns(run, request, lambda it: it.phase_times(rank=rank, **stretch))

    @router.get("/runs/{run}/ticktimes")
    async def tick_times(run: str, request: Request, stretch: Stretch, rank: int = 0) -> Response:
        return await columns(run, request, lambda it: it.tick_times(rank=rank, **stretch))

    @router.get("/runs/{run}/ranks")
    async def ranks(
        run: str, request: Request, stretch: Stretch, value: Literal["wall", "arrival"] = "wall"
    ) -> Response:
        return await columns(run, request, lambda it: it.rank_times(value=value, **stretch))

    @router.get("/runs/{run}/norms")
    async def norms(
        run: str, request: Request, stretch: Stretch, stat: str | None = None, rank: int = 0
    ) -> Response:
        return await columns(run, request, lambda it: it.norms(stat, rank=rank, **stretch))

    return router
