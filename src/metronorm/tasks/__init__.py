"""Packaged tasks: what `metronorm.train` trains, and what differs between them."""

__all__: list[str] = []
