"""Following a run while it is written, for live views."""

from metronorm.runs.following.follower import Follower
from metronorm.runs.following.snapshot import Snapshot

__all__ = ["Follower", "Snapshot"]
