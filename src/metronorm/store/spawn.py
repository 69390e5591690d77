"""A process begun without the training thread noticing.

Python's own ways hold the interpreter until the child runs its program, which on a busy machine
takes many milliseconds; a foreign function does not.
"""

from __future__ import annotations

import ctypes
import os

# the C libraries' structures are smaller
_ACTIONS_BYTES = 1024

_begun: set[int] = set()


def spawn(*arguments: str) -> int:
    """Run a program, by its path, with nothing on its standard streams; its process number.

    One that has ended is laid to rest by `is_running`, or when the next is begun.

    Raises:
        OSError: it cannot be run.
    """
    for earlier in list(_begun):
        is_running(earlier)
    library = ctypes.CDLL(None)
    actions = ctypes.create_string_buffer(_ACTIONS_BYTES)
    library.posix_spawn_file_actions_init(actions)
    for stream in range(3):
        library.posix_spawn_file_actions_addopen(actions, stream, b"/dev/null", os.O_RDWR, 0)
    given = [os.fsencode(argument) for argument in arguments]
    environment = [name + b"=" + value for name, value in os.environb.items()]
    process = ctypes.c_int()
    error = library.posix_spawn(
        ctypes.byref(process), given[0], actions, None, _texts(given), _texts(environment)
    )
    library.posix_spawn_file_actions_destroy(actions)
    if error:
        raise OSError(error, os.strerror(error))
    _begun.add(process.value)
    return process.value


def is_running(process: int) -> bool:
    """Whether a child has not ended; one that has is laid to rest."""
    try:
        runs = os.waitpid(process, os.WNOHANG) == (0, 0)
    except ChildProcessError:  # somebody else has waited for it
        runs = False
    if not runs:
        _begun.discard(process)  # its number may be another's from now on
    return runs


def _texts(texts: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
