"""A run as it is now, for views that follow it."""

from metronorm.clock.live.follower import Follower
from metronorm.clock.live.snapshot import Snapshot

__all__ = ["Follower", "Snapshot"]
