"""The live page of `metronorm watch`, in Textual."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Footer, Static

from metronorm.cli import watch_page as page
from metronorm.errors import MetronormError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from textual.app import ComposeResult
    from textual.geometry import Size

    from metronorm.runs.following import Follower

PERIOD_SECONDS = 1.0
EVENTS = 20
WIDE = 110  # a narrower page has no bars, so that the events have space


class WatchApp(App[None]):
    """An app that follows runs until the user quits.

    The first reading is made here; later ones are made in a thread, one at a time. If a run can no
    longer be read, the page keeps what it showed last and adds the reason.

    Args:
        followers: one for each run, at least one.

    Raises:
        RunError: a run cannot be read at the start.
    """

    TITLE = "metronorm watch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #overview { height: auto; max-height: 30%; margin: 0 1; }
    #charts { height: 3fr; }
    #charts Static { width: 1fr; height: 100%; }
    #details { height: 2fr; margin: 0 1; }
    #phases, #machine { width: auto; margin-right: 3; }
    #details VerticalScroll { min-width: 22; scrollbar-size-vertical: 1; }
    #events { height: auto; padding-right: 1; }
    #below { height: auto; max-height: 30%; margin: 0 1; }
    #ranks { height: auto; }
    """
    BINDINGS: ClassVar = [
        Binding("q", "quit", "quit"),
        Binding("space", "pause", "pause"),
        Binding("tab,right", "metric(1)", "metric", key_display="←→", priority=True),
        Binding("shift+tab,left", "metric(-1)", "metric", show=False, priority=True),
        Binding("down", "run(1)", "run", key_display="↑↓", priority=True),
        Binding("up", "run(-1)", "run", show=False, priority=True),
        Binding("r", "ranks", "ranks"),
    ]

    def __init__(self, followers: Sequence[Follower]) -> None:
        super().__init__()
        self.followers = followers
        self.snapshots = [follower.read() for follower in followers]
        self.problems = [""] * len(followers)
        self.metric = ""
        self.chosen = 0
        self.paused = False
        self.shows_ranks = any(len(snapshot.ranks) > 1 for snapshot in self.snapshots)
        self._reading = False

    def compose(self) -> ComposeResult:
        """Create the parts of the page."""
        yield Static(id="overview")
        with Horizontal(id="charts"):
            yield Static(id="metric")
            yield Static(id="tick_time")
        with Horizontal(id="details"):
            yield Static(id="phases")
            yield Static(id="machine")
            with VerticalScroll():
                yield Static(id="events")
        with VerticalScroll(id="below"):
            yield Static(id="ranks")
        yield Footer()

    def on_mount(self) -> None:
        """Start the timer that reads the runs."""
        self.set_interval(PERIOD_SECONDS, self._due)

    def on_resize(self) -> None:
        """Draw again, with charts of the new size."""
        self.call_after_refresh(self.draw)

    def _due(self) -> None:
        if not self.paused and not self._reading:
            self.run_worker(self.follow())

    async def follow(self) -> None:
        """Read the new records in a thread and show them."""
        self._reading = True
        try:
            for at, follower in enumerate(self.followers):
                try:
                    self.snapshots[at] = await asyncio.to_thread(follower.read)
                    self.problems[at] = ""
                except MetronormError as error:
                    self.problems[at] = str(error)
        finally:
            self._reading = False
        self.draw()

    def draw(self) -> None:
        """Show the newest snapshots."""
        if not self.query("#overview"):
            return  # the page is closing
        snapshots, snapshot = self.snapshots, self.snapshots[self.chosen]
        names = page.metrics(snapshots)
        if self.metric not in names:
            self.metric = names[0] if names else ""
        self._put(
            overview=page.overview(snapshots, self.problems, self.chosen, paused=self.paused),
            metric=page.metric_chart(snapshots, self.metric, *self._room("metric")),
            tick_time=page.tick_chart(snapshots, *self._room("tick_time")),
            phases=page.phases(snapshot, bars=self.size.width >= WIDE),
            machine=page.machine(snapshot),
            events=page.events(snapshot, EVENTS),
            ranks=page.ranks(snapshot),
        )
        self.query_one("#below").display = self.shows_ranks

    def _choose(self, step: int) -> None:
        names = page.metrics(self.snapshots)
        at = names.index(self.metric) + step if self.metric in names else 0
        self.metric = names[at % len(names)] if names else ""

    def _put(self, **parts: RenderableType) -> None:
        for name, drawn in parts.items():
            self.query_one(f"#{name}", Static).update(drawn)

    def _room(self, part: str) -> Size:
        return self.query_one(f"#{part}", Static).content_size

    def action_pause(self) -> None:
        """Stop reading, or continue."""
        self.paused = not self.paused
        self.draw()

    def action_metric(self, step: int) -> None:
        """Draw the next metric, or the previous one."""
        self._choose(step)
        self.draw()

    def action_run(self, step: int) -> None:
        """Show the details of the next run, or of the previous one."""
        self.chosen = (self.chosen + step) % len(self.snapshots)
        self.draw()

    def action_ranks(self) -> None:
        """Show the ranks, or hide them."""
        self.shows_ranks = not self.shows_ranks
        self.draw()
