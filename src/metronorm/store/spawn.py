"""Start a process without holding up the training thread.

`subprocess` holds the interpreter's lock until the child runs its program, which takes many
milliseconds on a busy machine. A call through `ctypes` releases that lock.
"""

from __future__ import annotations

import ctypes
import os

# room for a `posix_spawn_file_actions_t`, which is smaller in every C library
_ACTIONS_BYTES = 1024

_children: set[int] = set()  # those that have not been waited for


def spawn(*arguments: str) -> int:
    """Run a program with its standard streams on /dev/null.

    `is_running`, or the next `spawn`, waits for a child that has ended, so that it leaves no entry
    in the table of processes.

    Args:
        arguments: the path of the program, and its arguments.

    Returns:
        The number of the process.

    Raises:
        OSError: the program cannot be run.
    """
    for earlier in list(_children):
        is_running(earlier)
    library = ctypes.CDLL(None)
    actions = ctypes.create_string_buffer(_ACTIONS_BYTES)
    library.posix_spawn_file_actions_init(actions)
    for stream in range(3):
        library.posix_spawn_file_actions_addopen(actions, stream, b"/dev/null", os.O_RDWR, 0)
    argv = [os.fsencode(argument) for argument in arguments]
    environment = [name + b"=" + value for name, value in os.environb.items()]
    process = ctypes.c_int()
    error = library.posix_spawn(
        ctypes.byref(process), argv[0], actions, None, _c_strings(argv), _c_strings(environment)
    )
    library.posix_spawn_file_actions_destroy(actions)
    if error:
        raise OSError(error, os.strerror(error))
    _children.add(process.value)
    return process.value


def is_running(process: int) -> bool:
    """Whether a child is still running; waits for one that has ended."""
    try:
        running = os.waitpid(process, os.WNOHANG) == (0, 0)
    except ChildProcessError:  # other code has waited for it
        running = False
    if not running:
        _children.discard(process)  # another process may get this number from now on
    return running


def _c_strings(texts: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
