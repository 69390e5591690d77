import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError
from metronorm.ranks import Place, find_place
from metronorm.runs import open_run
from metronorm.store.run_directory import create_run, new_attempt

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node-1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "job",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "8",
    "PMIX_NAMESPACE": "prterun-node-1-4242@1",
    "PMIX_RANK": "3",
}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "8", "PMI_FD": "9"}
INTEL_MPI = MPICH | {"PMI_JOBID": "kvs_4242_0"}
CRAY_MPICH = {"PMI_RANK": "3", "PMI_SIZE": "8", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}

LAUNCHERS = {
    "torchrun": (TORCHRUN, "RANK", "TORCHELASTIC_RESTART_COUNT"),
    "SLURM": (SLURM, "SLURM_PROCID", "SLURM_STEP_ID"),
    "a requeued job": (SLURM | {"SLURM_RESTART_COUNT": "0"}, "SLURM_PROCID", "SLURM_RESTART_COUNT"),
    "Open MPI": (OPEN_MPI, "OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE"),
    "Intel MPI": (INTEL_MPI, "PMI_RANK", "PMI_JOBID"),
    "Cray MPICH": (CRAY_MPICH, "PMI_RANK", "SLURM_STEP_ID"),
    "torchrun in a SLURM job": (TORCHRUN | SLURM | {"SLURM_PROCID": "0"}, "RANK", "MASTER_PORT"),
}


@pytest.mark.parametrize(
    ("environment", "rank", "launch"), LAUNCHERS.values(), ids=LAUNCHERS.keys()
)
def test_launchers_say_who_is_who(environment: dict[str, str], rank: str, launch: str) -> None:
    place = find_place(environment)
    assert (place.rank, place.world_size) == (3, 8)
    other = find_place(environment | {rank: "5"})
    assert (other.rank, other.launch) == (5, place.launch), "ranks of a launch are of one launch"
    again = find_place(environment | {launch: "77"})
    assert again.launch != place.launch, "the next launch is another"


def test_without_a_name_for_the_launch_the_parent_is_it() -> None:
    for environment in (MPICH, {"RANK": "3", "WORLD_SIZE": "8"}):
        place = find_place(environment)
        assert (place.rank, place.world_size) == (3, 8)
        assert f"parent {os.getppid()}" in place.launch


def test_ranks_that_do_not_know_how_many_they_are_are_of_one_launch() -> None:
    addressed = {"MASTER_ADDR": "node-1", "MASTER_PORT": "29500"}
    first, second = (find_place({"RANK": rank, **addressed}) for rank in "02")
    assert (first.rank, second.rank) == (0, 2)
    assert first.launch == second.launch


def test_processes_without_a_launcher_are_launches_of_their_own() -> None:
    first, second = find_place({}), find_place({})
    assert (first.rank, first.world_size) == (0, 1)
    assert first.launch != second.launch


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # the batch script itself
        {"WORLD_SIZE": "8", "MASTER_ADDR": "node-1"},
        {"LOCAL_RANK": "1"},
    ],
)
def test_what_is_no_rank(environment: dict[str, str]) -> None:
    place = find_place(environment)
    assert (place.rank, place.world_size) == (0, 1)


@pytest.mark.parametrize(
    ("rank", "world_size", "error"),
    [
        ("first", "8", "RANK must be a number; got 'first' of '8'"),
        ("", "8", "RANK must be a number"),
        ("1", "many", "RANK must be a number; got '1' of 'many'"),
        ("8", "8", "RANK must be from 0 to the number of ranks - 1; got 8 of 8"),
        ("-1", "8", "RANK must be from 0"),
        ("1.0", "8", "RANK must be a number"),
    ],
)
def test_ranks_that_cannot_be(rank: str, world_size: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        find_place({"RANK": rank, "WORLD_SIZE": world_size})


GROUP = """
import os, sys
import torch.distributed as dist

from metronorm.ranks import find_place

assert find_place().world_size == 1
dist.init_process_group("gloo", store=dist.FileStore(sys.argv[1], 1), rank=0, world_size=1)
place = find_place()
assert place.launch == f"parent {os.getppid()} of 1", place
assert (place.rank, place.world_size) == (0, 1)
assert find_place({}).launch != place.launch
dist.destroy_process_group()
"""


def test_a_group_that_was_joined_without_a_launcher(tmp_path: Path) -> None:
    run_script(GROUP, tmp_path / "store")


# --- the directory that ranks share ---------------------------------------------------------------


def place(rank: int, launch: str = "one", world_size: int = 4) -> Place:
    return Place(rank, world_size, launch)


def test_ranks_of_a_launch_share_an_attempt(tmp_path: Path) -> None:
    for rank in (2, 0, 3, 1):
        create_run(tmp_path / "run", name=None, config={"seed": rank}, place=place(rank))
        assert new_attempt(tmp_path / "run", place(rank)) == 0
    run = open_run(tmp_path / "run")
    assert run.attempts == [0]
    assert run.info.config == {"seed": 2}, "of the first that came"
    for rank in (1, 0):
        assert new_attempt(tmp_path / "run", place(rank, "two")) == 1


def test_a_rank_that_is_there_twice_gets_an_attempt_of_its_own(tmp_path: Path) -> None:
    """As when a launcher gives its launches the same name."""
    for attempt in range(3):
        assert [new_attempt(tmp_path, place(rank)) for rank in range(4)] == [attempt] * 4


def test_another_launch_needs_a_directory_of_its_own(tmp_path: Path) -> None:
    create_run(tmp_path / "run", name=None, config={}, place=place(0))
    new_attempt(tmp_path / "run", place(0))
    for other in (place(1, "two"), place(0, "two"), place(0), None):
        with pytest.raises(RunError, match="needs a directory of its own"):
            create_run(tmp_path / "run", name=None, config={}, place=other)


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    with monkeypatch.context() as context:
        for name, value in variables.items():
            context.setenv(name, value)
        yield


def test_the_same_command_given_twice_does_not_go_on_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun with a fixed port names all its launches alike."""
    with environment(monkeypatch, **{**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}):
        with Clock(tmp_path / "run", progress=False, stall=None) as clock:
            list(clock.ticks(range(2)))
        with (
            pytest.raises(RunError, match="needs a directory of its own"),
            Clock(tmp_path / "run", progress=False, stall=None),
        ):
            pass
        with Clock(tmp_path / "run", progress=False, resume=True, stall=None) as clock:
            list(clock.ticks(range(2), initial=2))
            assert clock.attempt == 1


# --- processes ------------------------------------------------------------------------------------

RANK = """
import sys
from pathlib import Path
from metronorm.clock import Clock

run = Path(sys.argv[1])
resume, first = "resume" in sys.argv, int(sys.argv[-1])
with Clock(run, config={"size": 4}, progress=False, resume=resume, stall=None) as clock:
    for number in clock.ticks(range(3), initial=first):
        clock.log(rank_number=clock.rank)
    print(clock.attempt, clock.rank, flush=True)
"""

RACE = """
import os, sys
from pathlib import Path
from metronorm.ranks import find_place
from metronorm.store.run_directory import create_run, new_attempt, read_run_info

for line in sys.stdin:  # the starting gun
    directory, launch, resume = line.split()
    os.environ["MASTER_PORT"] = launch
    place = find_place()
    if resume == "new":
        info = create_run(Path(directory), name=None, config={}, place=place)
    else:
        info = read_run_info(Path(directory))
    print(info.id, new_attempt(Path(directory), place), flush=True)
"""


def clean_environment() -> dict[str, str]:
    launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC", "SLURM_", "PMI")
    return {k: v for k, v in os.environ.items() if not k.startswith(launchers)}


def start_script(
    script: str, *arguments: object, folder: Path | None = None, **variables: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=clean_environment() | variables,
    )


def run_script(script: str, *arguments: object, **variables: str) -> str:
    process = start_script(script, *arguments, **variables)
    told, error = process.communicate()
    assert process.returncode == 0, error
    return told


def test_ranks_that_start_at_once_find_the_same_attempt(tmp_path: Path) -> None:
    ranks = [
        start_script(RACE, folder=tmp_path, RANK=str(rank), WORLD_SIZE="4", MASTER_ADDR="127.0.0.1")
        for rank in range(4)
    ]

    def start(run: int, launch: int, how: str) -> list[str]:
        for process in ranks:
            assert process.stdin is not None
            process.stdin.write(f"{tmp_path}/run-{run} {launch} {how}\n")
            process.stdin.flush()
        return [process.stdout.readline() for process in ranks if process.stdout]

    for number in range(25):
        found = start(number, 0, "new")
        assert set(found) == {f"{open_run(tmp_path / f'run-{number}').info.id} 0\n"}
        for attempt in (1, 2):  # of the last the launch has the name of the one before
            found = start(number, 1, "resume")
            assert {line.split()[1] for line in found} == {str(attempt)}, (number, attempt)
        left = {path.name for path in (tmp_path / f"run-{number}").rglob("*")}
        assert left == {
            *("run.json", "ticks", ".launch"),
            *(f"attempt={attempt}" for attempt in range(3)),
            *(f"rank={rank}" for rank in range(4)),
        }, "nothing is left over of those who came second"
    for process in ranks:
        _, error = process.communicate()
        assert process.returncode == 0, error


def test_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(RANK)

    def torchrun(*arguments: str) -> None:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4"]
        subprocess.run(
            [*launcher, script, tmp_path / "run", *arguments],
            check=True,
            capture_output=True,
            env=clean_environment() | {"OMP_NUM_THREADS": "1"},
        )

    torchrun("0")
    torchrun("resume", "2")
    with pytest.raises(subprocess.CalledProcessError) as error:
        torchrun("0")
    assert b"needs a directory of its own" in error.value.stderr
    run = open_run(tmp_path / "run")
    assert run.attempts == [0, 1]
    assert run.info.config == {"size": 4}
    rows = run.ticks("full").sql("select attempt, rank, tick, rank_number from ticks").fetchall()
    assert sorted(rows) == [
        (attempt, rank, tick + 2 * attempt, rank)
        for attempt in range(2)
        for rank in range(4)
        for tick in (1, 2, 3)
    ]
    assert [row["tick"] for row in run.ticks().rows()] == sorted([1, 2, 3, 4, 5] * 4)
    assert run.notices() == []
    started = run.events().sql("select attempt, rank from events where event = 'start'").fetchall()
    assert sorted(started) == [(attempt, rank) for attempt in range(2) for rank in range(4)]


def test_processes_that_know_nothing_of_each_other_do_not_share_a_run(tmp_path: Path) -> None:
    """Not even one after the other, or when the first has a launcher and the second has none."""
    assert run_script(RANK, tmp_path / "run", 0) == "0 0\n"
    for variables in ({}, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}):
        process = start_script(RANK, tmp_path / "run", 0, **variables)
        _, error = process.communicate()
        assert process.returncode == 1
        assert "RunError: a new run needs a directory of its own" in error
    assert open_run(tmp_path / "run").attempts == [0]
