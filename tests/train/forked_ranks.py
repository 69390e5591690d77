"""A process that has torch loaded and forks the ranks of a training, for every line it reads.

A line is JSON, a `Launch`. It answers with the numbers of the processes, and when all have ended,
with their exit codes. What a rank says on standard error is in `SAID/RANK`. As under torchrun, the
store of the ranks is in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Launch:
    """Ranks to start.

    Args:
        arguments: of `metronorm`, for each rank.
        said: folder for what the ranks say.
        environment: more variables.
        store: whether a process of its own keeps the store; False: rank 0 does.
        own_disk: a folder that the last rank has another disk for.
        networks: the network namespace of each rank; none: that of this process.
    """

    arguments: list[list[str]]
    said: str
    environment: dict[str, str] = field(default_factory=dict)
    store: bool = True
    own_disk: str = ""
    networks: list[str] = field(default_factory=list)


@dataclass
class Ended:
    """How ranks have ended: exit code, the end's time, and what each has said, by rank."""

    codes: list[int]
    times: list[float]
    said: list[str]


class Ranks:
    """Forks ranks; to be used by `with`.

    Args:
        modules: that are loaded before, beside torch.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream(self._process.stdin).close()
        self._stream(self._process.stdout).close()
        self._process.wait()

    def begin(self, launch: Launch) -> list[int]:
        """Start ranks; the numbers of their processes."""
        self._launch = launch
        Path(launch.said).mkdir(parents=True)
        stdin = self._stream(self._process.stdin)
        stdin.write(json.dumps(asdict(launch)) + "\n")
        stdin.flush()
        found: list[int] = self._answer()
        return found

    def end(self) -> Ended:
        """Wait for all ranks."""
        ends = self._answer()
        said = [
            (Path(self._launch.said) / str(rank)).read_text()
            for rank in range(len(self._launch.arguments))
        ]
        return Ended([code for code, _ in ends], [moment for _, moment in ends], said)

    def run(self, launch: Launch) -> Ended:
        """Start ranks, and wait for all."""
        self.begin(launch)
        return self.end()

    def _answer(self) -> list:  # type: ignore[type-arg]
        line = self._stream(self._process.stdout).readline()
        found: list = json.loads(line)  # type: ignore[type-arg]
        return found

    def _stream(self, stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


def _rank(launch: Launch, rank: int, port: int) -> int:
    from metronorm.cli import main

    out = os.open(
        Path(launch.said) / str(rank), os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC
    )
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(out, 2)
    own = {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(launch.arguments)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": launch.said,
        "TORCHELASTIC_USE_AGENT_STORE": str(launch.store),
    }
    os.environ.update(own | launch.environment)
    try:
        if launch.networks:
            _enter_network(launch.networks[rank])
        if launch.own_disk and rank == len(launch.arguments) - 1:
            _mount(launch.own_disk)
        return main(launch.arguments[rank])
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def _mount(folder: str) -> None:
    """Another disk at this folder, for this process alone."""
    library = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, 0x00040000 | 0x00004000
    done = (
        library.unshare(new_namespace)
        or library.mount(b"none", b"/", None, private, None)
        or library.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=4m")
    )
    if done:
        raise PermissionError(ctypes.get_errno(), "a disk cannot be mounted here")


def _enter_network(name: str) -> None:
    """From now on this process is in the network namespace of `ip netns`."""
    new_network = 0x40000000
    with Path("/run/netns", name).open() as found:
        if ctypes.CDLL(None, use_errno=True).setns(found.fileno(), new_network):
            raise PermissionError(ctypes.get_errno(), "a network cannot be entered here")


def _fork(work: object) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(work())  # type: ignore[operator]
    return pid


def _keep_store(write: int) -> int:
    from torch.distributed import TCPStore

    kept = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    os.write(write, f"{kept.port}\n".encode())
    while os.getppid() != 1:
        time.sleep(0.2)
    return 0


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _launch(launch: Launch) -> None:
    read, write = os.pipe()
    store = _fork(lambda: _keep_store(write)) if launch.store else 0
    port = int(os.read(read, 20)) if launch.store else _free_port()
    ranks = range(len(launch.arguments))
    pids = [_fork(lambda rank=rank: _rank(launch, rank, port)) for rank in ranks]
    print(json.dumps(pids), flush=True)
    ends: dict[int, tuple[int, float]] = {}
    stopped: list[int] = []
    while len(ends) < len(pids):
        if len(ends) + len(stopped) == len(pids):  # all others have ended
            os.kill(stopped.pop(), signal.SIGKILL)
        pid, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            stopped.append(pid)
        elif pid in pids:
            ends[pid] = os.waitstatus_to_exitcode(status), time.time()
    if store:
        os.kill(store, 9)
        os.waitpid(store, 0)
    os.close(read)
    os.close(write)
    print(json.dumps([ends[pid] for pid in pids]), flush=True)


def _main() -> None:
    # of torch about itself, when its compiler is loaded, and sees what FSDP2 has gathered
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.")
    warnings.filterwarnings(
        "ignore", message=r"The \.grad attribute of a Tensor that is not a leaf"
    )
    sys.path.insert(0, str(Path(__file__).parents[2]))

    import torch._dynamo  # noqa: F401, or the first step of an optimizer loads it, in every fork

    import tests.train.fault_task  # noqa: F401

    for name in sys.argv[1:]:
        importlib.import_module(name)

    for line in sys.stdin:
        _launch(Launch(**json.loads(line)))


def same(arguments: Sequence[str], processes: int) -> list[list[str]]:
    """The same arguments for each rank."""
    return [list(arguments) for _ in range(processes)]


if __name__ == "__main__":
    _main()
