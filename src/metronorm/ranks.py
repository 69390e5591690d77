"""Which rank this process is, and which launch it belongs to.

Ranks do not communicate for this. Each launcher gives its processes environment variables that are
the same in all ranks; they identify the launch, so its ranks find the same attempt.
"""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Place:
    """The place of this process among the ranks of its launch.

    Args:
        rank: from 0 to `world_size` - 1.
        world_size: number of ranks.
        launch: the same text in all ranks of a launch; a restart has another.
    """

    rank: int
    world_size: int
    launch: str


_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")

# launcher, and its variables: the rank, the number of ranks, those that identify the launch
_LAUNCHERS = (
    (
        "torchrun",
        "RANK",
        "WORLD_SIZE",
        ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    ),
    (
        "mpi",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    ),
    ("mpi", "PMI_RANK", "PMI_SIZE", ("PMI_JOBID", "PMI_ID_NAMESPACE", *_SLURM)),
    (
        "slurm",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        _SLURM,
    ),
)


_met: list[str] = []  # the name of the meeting of this process, if it is in one


@contextlib.contextmanager
def in_meeting(name: str) -> Iterator[None]:
    """Inside, the launch of this process is the meeting that it has come to.

    Launchers that restart some processes may tell each of them another number of restarts.
    """
    _met.append(name)
    try:
        yield
    finally:
        _met.pop()


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """Find the rank and the launch of this process; without a launcher it is rank 0 of 1.

    Known launchers, in this order: torchrun (and others that set RANK, WORLD_SIZE and MASTER_ADDR),
    Open MPI, MPICH, SLURM; and processes that joined a torch.distributed group by themselves.

    Args:
        environment: environment variables; None: those of this process.

    Raises:
        ConfigError: a rank is not a number, or not below the number of ranks.
    """
    known = os.environ if environment is None else environment
    met = _met[-1] if _met and environment is None else None
    for launcher, rank, world_size, identifying in _LAUNCHERS:
        # a shell inside a SLURM allocation has SLURM_PROCID too, but is not a step
        if rank not in known or (launcher == "slurm" and "SLURM_STEP_ID" not in known):
            continue
        number, world = _numbers(rank, known[rank], known.get(world_size))
        if met:
            return Place(number, world, met)
        identity = _identity(known, identifying)
        # the variable and not `world`, which may be a guess that differs between ranks
        return Place(number, world, f"{launcher} {identity} of {known.get(world_size)}")
    group = sys.modules.get("torch.distributed")
    if environment is None and group and group.is_available() and group.is_initialized():
        world = group.get_world_size()
        if met:
            return Place(group.get_rank(), world, met)
        identity = _identity(known, ("MASTER_ADDR", "MASTER_PORT"))
        return Place(group.get_rank(), world, f"{identity} of {world}")
    return Place(0, 1, uuid.uuid4().hex)


def _identity(known: Mapping[str, str], names: tuple[str, ...]) -> str:
    """What all ranks of a launch have in common; without a variable, their parent process."""
    values = [known[name] for name in names if name in known]
    return "/".join(values) if values else f"parent {os.getppid()}"


def _numbers(name: str, rank: str, world_size: str | None) -> tuple[int, int]:
    try:
        number = int(rank)
        world = int(world_size) if world_size else number + 1
    except ValueError:
        raise ConfigError(f"{name} must be a number", got=f"{rank!r} of {world_size!r}") from None
    if not 0 <= number < world:
        raise ConfigError(
            f"{name} must be from 0 to the number of ranks - 1", got=f"{rank} of {world_size}"
        )
    return number, world
