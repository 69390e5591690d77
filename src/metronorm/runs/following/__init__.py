"""A run as it is now, for views that follow it."""

from metronorm.runs.following.follower import Follower
from metronorm.runs.following.snapshot import Snapshot

__all__ = ["Follower", "Snapshot"]
