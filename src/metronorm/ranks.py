"""Which rank this process is, and which launch it belongs to.

Ranks do not talk to each other. Those of one launch find the same attempt because each launcher
gives its processes something in common: that is the launch's identity.
"""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Place:
    """The process among its ranks.

    `launch` is the same text in all ranks of a launch, and differs after a restart.
    """

    rank: int
    world_size: int
    launch: str


_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")

# launcher, rank, number of ranks, and what all ranks of one launch have in common
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


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """What the launcher's environment says; a process without a launcher is rank 0 of 1.

    Known are torchrun (and everybody who sets RANK, WORLD_SIZE and MASTER_ADDR), SLURM, Open MPI
    and MPICH, in this order; and processes that joined a torch.distributed group by themselves.

    Raises:
        ConfigError: a rank that is no number, or not below the number of ranks.
    """
    known = os.environ if environment is None else environment
    for launcher, rank, world_size, common in _LAUNCHERS:
        # a shell inside an allocation has SLURM_PROCID too, but is no step of it
        if rank not in known or (launcher == "slurm" and "SLURM_STEP_ID" not in known):
            continue
        place = _numbers(rank, known[rank], known.get(world_size))
        told = [known[name] for name in common if name in known]
        # no name for the launch at all: the parent is the launcher
        identity = "/".join(told) if told else f"parent {os.getppid()}"
        # not the world's size that was made up
        return Place(*place, f"{launcher} {identity} of {known.get(world_size)}")
    group = sys.modules.get("torch.distributed")
    if environment is None and group and group.is_available() and group.is_initialized():
        world = group.get_world_size()
        told = [known[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in known]
        identity = "/".join(told) if told else f"parent {os.getppid()}"
        return Place(group.get_rank(), world, f"{identity} of {world}")
    return Place(0, 1, uuid.uuid4().hex)


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
