"""The answers below `/api/runs/RUN/` that are arrays: what the charts of a run draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from metronorm.board.series.axes import Axis  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.board.series import Reduced, RunSeries
    from metronorm.board.state import Board

Names = Annotated[list[str], Query(default_factory=list)]
Begin = Annotated[float | None, Query(alias="from")]
End = Annotated[float | None, Query(alias="to")]


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
        x: Axis = "tick",
        begin: Begin = None,
        end: End = None,
        width: float = 1000,
        left: float = 0,
        ratio: float = 1,
        smooth: float = 0,
        y: str = "linear",
        rank: int = 0,
        ghosts: bool = False,
        live: bool = False,
    ) -> Response:
        def reduce(it: RunSeries) -> Reduced:
            return it.reduce(
                names,
                x=x,
                begin=begin,
                end=end,
                width=width,
                left=left,
                ratio=ratio,
                smooth=smooth,
                rank=rank,
                ghosts=ghosts,
                y=y,
                live=live,
            )

        return await columns(run, request, reduce)

    @router.get("/runs/{run}/resources")
    async def resources(
        run: str,
        request: Request,
        names: Names,
        x: Axis = "time",
        begin: Begin = None,
        end: End = None,
        width: float = 1000,
        left: float = 0,
        ratio: float = 1,
        smooth: float = 0,
        rank: int = 0,
        y: str = "linear",
        live: bool = False,
    ) -> Response:
        def reduce(it: RunSeries) -> Reduced:
            return it.resources(
                names,
                x=x,
                begin=begin,
                end=end,
                width=width,
                left=left,
                ratio=ratio,
                smooth=smooth,
                rank=rank,
                y=y,
                live=live,
            )

        # the cursor is that of the ticks
        return await columns(run, request, reduce, tagged=False)

    @router.get("/runs/{run}/phases")
    async def phases(
        run: str,
        request: Request,
        begin: Begin = None,
        end: End = None,
        width: float = 1000,
        rank: int = 0,
    ) -> Response:
        return await columns(
            run, request, lambda it: it.phase_times(begin=begin, end=end, width=width, rank=rank)
        )

    @router.get("/runs/{run}/ticktimes")
    async def tick_times(
        run: str,
        request: Request,
        begin: Begin = None,
        end: End = None,
        width: float = 1000,
        rank: int = 0,
    ) -> Response:
        return await columns(
            run, request, lambda it: it.tick_times(begin=begin, end=end, width=width, rank=rank)
        )

    @router.get("/runs/{run}/ranks")
    async def ranks(
        run: str,
        request: Request,
        value: Literal["wall", "arrival"] = "wall",
        begin: Begin = None,
        end: End = None,
        width: float = 1000,
    ) -> Response:
        return await columns(
            run, request, lambda it: it.rank_times(value=value, begin=begin, end=end, width=width)
        )

    @router.get("/runs/{run}/norms")
    async def norms(
        run: str,
        request: Request,
        stat: str | None = None,
        begin: Begin = None,
        end: End = None,
        width: float = 1000,
        rank: int = 0,
    ) -> Response:
        return await columns(
            run, request, lambda it: it.norms(stat, begin=begin, end=end, width=width, rank=rank)
        )

    return router
