import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.runs import open_run
from metronorm.store.ring import ring_path
from metronorm.store.sealing import seal_run

from . import records

# each child does what could put something on record, or take something away
CHILD = """
def use(clock):
    clock.log(child=1.0)
    clock.event("of the child")
    with clock.phase("forward"):
        pass
    for number in clock.ticks(range(3)):
        clock.log(loss=-1.0, child=number)
    clock.begin_tick()
    clock.log(child=2.0)
    clock.end_tick()
    clock.pause()
    clock.detach_after_fork()
    clock.close(RuntimeError("of the child"))
    clock.close()
"""

FORK = (
    CHILD
    + """
import os, sys, threading
from pathlib import Path
from metronorm.clock import Clock
from metronorm.store.ring import abandoned_rings, ring_path
from metronorm.store.run_directory import read_run_info

run, how = Path(sys.argv[1]), sys.argv[2]
with Clock(run, progress=False) as clock:
    rings = ring_path(read_run_info(run).id, "ticks", 0, 0)
    for number in clock.ticks(range(20)):
        with clock.phase("forward"):
            clock.log(loss=float(number))
        if number in (5, 12):
            with clock.phase("fork"):
                child = os.fork()
            if not child:
                use(clock)
                if how == "exit":  # its exit handlers run, and its frames are unwound
                    sys.exit(0)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert rings.exists()
            assert rings not in [path for path, _ in abandoned_rings()], "still the parent's"
        clock.event("of the parent", number=number)
"""
)

WORKERS = (
    CHILD
    + """
import sys
from pathlib import Path
from torch.utils.data import DataLoader, Dataset
from metronorm.clock import Clock

class Squares(Dataset):
    def __init__(self, clock):
        self.clock = clock  # as a data set may that hangs on everything

    def __len__(self):
        return 32

    def __getitem__(self, index):
        use(self.clock)
        return index * index

with Clock(Path(sys.argv[1]), progress=False) as clock:
    loader = DataLoader(
        Squares(clock), batch_size=4, num_workers=2, multiprocessing_context="fork"
    )
    for epoch in range(2):
        for batch in clock.ticks(loader):
            clock.log(loss=batch.sum())
"""
)

SEPARATE = """
import os, sys
from pathlib import Path
from metronorm.clock import Clock

with Clock(Path(sys.argv[1]), progress=False) as clock:
    for number in clock.ticks(range(4)):
        clock.log(loss=float(number))
        if number == 1 and not os.fork():
            with Clock(Path(sys.argv[1] + "-child"), progress=False) as own:
                for number in own.ticks(range(3)):
                    own.log(loss=-1.0)
            os._exit(0)
    assert os.wait()[1] == 0
"""

OUTLIVED = """
import os, signal, sys
from pathlib import Path
from metronorm.clock import Clock

with Clock(Path(sys.argv[1]), progress=False) as clock:
    for number in clock.ticks(range(10)):
        clock.log(loss=float(number))
        if number == 7:
            if not os.fork():
                os.read(0, 1)  # until the test has seen enough
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
"""


def run_script(script: str, *arguments: object) -> None:
    """Run in a separate process: the process of the tests has threads and must not fork."""
    subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], check=True, capture_output=True
    )


@pytest.mark.parametrize("how", ["exit", "_exit"])
def test_a_child_of_a_fork_records_nothing(tmp_path: Path, how: str) -> None:
    run_script(FORK, tmp_path / "run", how)
    ticks = records.ticks(tmp_path / "run")
    assert [(tick["tick"], tick["metrics"]) for tick in ticks] == [
        (number + 1, {"loss": number}) for number in range(20)
    ]
    events = [(event["event"], event["fields"]) for event in records.events(tmp_path / "run")]
    assert [name for name, _ in events if name in ("start", "end", "of the child")] == [
        "start",
        "end",
    ]
    assert [fields["number"] for name, fields in events if name == "of the parent"] == [*range(20)]
    assert events[-1] == ("end", {})
    run = open_run(tmp_path / "run")
    assert run.attempts == [0]
    assert run.notices() == []


def test_data_loader_workers_record_nothing(tmp_path: Path) -> None:
    run_script(WORKERS, tmp_path / "run")
    squares = [number * number for number in range(32)]
    sums = [sum(squares[batch : batch + 4]) for batch in range(0, 32, 4)]
    ticks = records.ticks(tmp_path / "run")
    assert [tick["metrics"] for tick in ticks] == [{"loss": each} for each in sums * 2]
    events = records.events(tmp_path / "run")
    assert {event["event"] for event in events} <= {"start", "end", "not sampled"}
    assert (events[0]["event"], events[-1]["fields"]) == ("start", {})
    assert open_run(tmp_path / "run").notices() == []


def test_a_child_may_have_a_clock_of_its_own(tmp_path: Path) -> None:
    run_script(SEPARATE, tmp_path / "run")
    assert [tick["metrics"]["loss"] for tick in records.ticks(tmp_path / "run")] == [0, 1, 2, 3]
    assert len(records.ticks(tmp_path / "run-child")) == 3


# the map has a descriptor of its own, of the file that is locked
def test_a_child_that_outlives_its_parent_does_not_keep_its_ring(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OUTLIVED, str(tmp_path / "run")], stdin=subprocess.PIPE
    ) as parent:
        parent.wait()
        run = open_run(tmp_path / "run")
        assert [row["tick"] for row in run.ticks().rows()] == list(range(1, 8))
        seal_run(run.directory)
        for kind in ("ticks", "events", "resources"):
            assert not ring_path(run.info.id, kind, 0, 0).exists(), "what was in it is on its tape"
    assert [row["tick"] for row in run.ticks().rows()] == list(range(1, 8))
