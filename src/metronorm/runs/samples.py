"""What a run left to look at: text, pictures, audio and tables, as `clock.sample` kept them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import RunError
from metronorm.files import read_regular
from metronorm.runs.events import read_events
from metronorm.store.samples import SUFFIXES, Kind, is_safe, sample_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.runs.events import Event
    from metronorm.runs.table import Table


@dataclass(frozen=True)
class Sample:
    """Something that a run left to look at.

    `kind` is "text" (a file of UTF-8), "picture" (PNG), "audio" (WAV) or "table" (JSON lines);
    `time_ns` is since 1970. Older versions kept text in its event: then that is `text`, and `path`
    is None.
    """

    name: str
    kind: Kind
    tick: int
    attempt: int
    rank: int
    time_ns: int
    path: Path | None
    text: str | None = None

    def read(self) -> bytes:
        """The content of its file.

        Raises:
            RunError: the file is gone, or may not be read.
        """
        if self.path is None:
            return (self.text or "").encode(errors="replace")
        try:
            return read_regular(self.path)
        except OSError as error:
            raise RunError(
                "the file of a sample must be readable",
                got=f"{self.path}: {error.strerror or error}",
            ) from None


def read_samples(events: Table, directory: Path) -> list[Sample]:
    """The samples of a run, sorted by tick, attempt, rank and time.

    Args:
        events: the events of the run, at least those called `sample`.
        directory: the directory of the run.
    """
    return samples_of(read_events(events, "event = 'sample'"), directory)


def samples_of(events: Iterable[Event], directory: Path) -> list[Sample]:
    """The same, of events that have been read: those called `sample`."""
    found = [_sample(event, directory) for event in events]
    return sorted(
        (sample for sample in found if sample is not None),
        key=lambda sample: (sample.tick, sample.attempt, sample.rank, sample.time_ns),
    )


def _sample(event: Event, directory: Path) -> Sample | None:
    """The sample of an event; None if a script has recorded an event of that name."""
    place = event.tick, event.attempt, event.rank, event.time_ns
    match event.fields:
        case {"name": str(name), "kind": str(kind), "path": str(file)} if kind in SUFFIXES:
            file_name = file.rpartition("/")[2]
            if not is_safe(file_name):  # the run may come from anybody
                return None
            folder = directory / sample_folder(event.attempt, event.rank, event.tick)
            return Sample(name, kind, *place, path=folder / file_name)
        case {"text": str(text)}:
            return Sample("text", "text", *place, path=None, text=text)
    return None
