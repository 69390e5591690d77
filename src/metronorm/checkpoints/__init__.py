"""What a training must keep to go on: saved by any number of ranks, and read by any other number.

`checkpoint.py` is one checkpoint, `folder.py` those of a run. Nothing is unpickled.
"""

__all__: list[str] = []
