"""An existing PyTorch loop, recorded by hooks."""

from metronorm.clock.hooks.watch import Watch

__all__ = ["Watch"]
