import mmap
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from metronorm.clock import resources as module
from metronorm.clock.resources import Resources

MEGABYTE = 1 << 20

linux = pytest.mark.skipif(sys.platform != "linux", reason="compared with values of Linux")


class Missing(list[tuple[str, str]]):
    """Collects what cannot be read."""

    def __call__(self, what: str, why: str) -> None:
        self.append((what, why))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_NVIDIA", tmp_path / "no-driver")


@pytest.fixture
def missing() -> Missing:
    return Missing()


@linux
def test_everything_that_can_be_read_has_a_name_with_its_unit(
    missing: Missing, tmp_path: Path
) -> None:
    sample = Resources(missing, energy=tmp_path).sample()
    assert set(sample) == {
        "processor_ns",
        "memory_bytes",
        "shared_memory_bytes",
        "peak_memory_bytes",
        "swap_bytes",
        "machine_memory_available_bytes",
        "machine_processor_share",
        "disk_read_bytes",
        "disk_written_bytes",
        "network_received_bytes",
        "network_sent_bytes",
    } | {name for name in sample if name.startswith("children_")}
    assert missing == [], "a GPU that does not exist is not reported"


@linux
def test_values_agree_with_linux(missing: Missing, tmp_path: Path) -> None:
    def readings() -> dict[str, float]:
        page = resource.getpagesize()
        io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        return {
            "processor_ns": time.process_time_ns(),
            "memory_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * page,
            "shared_memory_bytes": int(Path("/proc/self/statm").read_text().split()[2]) * page,
            "peak_memory_bytes": int(status["VmHWM"].split()[0]) * 1024,
            "disk_read_bytes": int(io["read_bytes"]),
            "disk_written_bytes": int(io["write_bytes"]),
        }

    resources = Resources(missing, energy=tmp_path)
    before = readings()
    sample = resources.sample()
    after = readings()
    memories = ("memory_bytes", "shared_memory_bytes", "peak_memory_bytes")
    slack = dict.fromkeys(memories, 4 * MEGABYTE)
    for name, low in before.items():
        assert low - slack.get(name, 0) <= sample[name] <= after[name] + slack.get(name, 0), name
    memory = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (
            line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines()
        )
    }
    assert 0 < sample["machine_memory_available_bytes"] <= memory["MemTotal"]
    assert 0 <= sample["swap_bytes"] <= memory["SwapTotal"]
    assert 0 <= sample["machine_processor_share"] <= 1


@linux
def test_memory_and_network_are_counted_in_bytes(missing: Missing, tmp_path: Path) -> None:
    resources = Resources(missing, energy=tmp_path)
    before = resources.sample()
    block = bytearray(b"x") * (64 * MEGABYTE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
        with sender, receiver:
            writing = threading.Thread(target=sender.sendall, args=(block[: 8 * MEGABYTE],))
            writing.start()
            left = 8 * MEGABYTE
            while left:
                left -= len(receiver.recv(MEGABYTE))
            writing.join()
    after = resources.sample()
    grown = {name: after[name] - before[name] for name in before if name in after}
    assert 60 * MEGABYTE < grown["memory_bytes"] < 96 * MEGABYTE
    assert after["peak_memory_bytes"] >= after["memory_bytes"] * 0.9
    assert grown["network_received_bytes"] >= 8 * MEGABYTE
    assert grown["network_sent_bytes"] >= 8 * MEGABYTE
    del block


@linux
def test_pages_of_a_mapped_file_are_shared(missing: Missing, tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    path.write_bytes(bytes(64 * MEGABYTE))
    resources = Resources(missing, energy=tmp_path)
    before = resources.sample()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert pages.find(b"x") == -1
        after = resources.sample()
    grown = {name: after[name] - before[name] for name in ("memory_bytes", "shared_memory_bytes")}
    assert grown["shared_memory_bytes"] >= 60 * MEGABYTE
    assert abs(grown["memory_bytes"] - grown["shared_memory_bytes"]) < 16 * MEGABYTE


CHILD = """
import subprocess, sys, time
block = bytearray(b"x") * (64 << 20)
while time.process_time() < 0.1:
    pass
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", sys.argv[1]])
else:
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_children_and_their_children_are_counted_while_they_live(
    missing: Missing, tmp_path: Path
) -> None:
    resources = Resources(missing, energy=tmp_path)
    before = resources.sample()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    sample = resources.sample()
    memory = sample["children_memory_bytes"] - before.get("children_memory_bytes", 0)
    spent = sample["children_processor_ns"] - before.get("children_processor_ns", 0)
    assert memory >= 128 * MEGABYTE
    assert 0.15e9 <= spent <= 60e9, "of 0.2 s, in hundredths that are cut off"
    assert sample["memory_bytes"] < before["memory_bytes"] + 64 * MEGABYTE, "not the parent's"
    child.communicate()
    after = resources.sample()
    assert after.get("children_memory_bytes", 0) < sample["children_memory_bytes"]
    assert missing == []


# --- energy ---------------------------------------------------------------------------------------


def write_counter(folder: Path, name: str, energy: int | str, most: int = 1_000_000_000) -> Path:
    counter = folder / name
    counter.mkdir(parents=True, exist_ok=True)
    (counter / "energy_uj").write_text(f"{energy}\n")
    (counter / "max_energy_range_uj").write_text(f"{most}\n")
    return counter / "energy_uj"


def test_energy_of_all_packages_is_added_and_wraps_around(missing: Missing, tmp_path: Path) -> None:
    first = write_counter(tmp_path, "intel-rapl:0", 999_000_000)
    second = write_counter(tmp_path, "intel-rapl:1", 5_000_000)
    part = write_counter(tmp_path, "intel-rapl:0:0", 0)  # of the first: not counted twice
    write_counter(tmp_path, "intel-rapl-mmio:0", 0)  # the first once more
    (tmp_path / "intel-rapl").mkdir()
    resources = Resources(missing, energy=tmp_path)
    read = []
    for energies in ((999_000_000, 5_000_000), (999_500_000, 7_000_000), (500_000, 7_000_000)):
        for path, energy in zip((first, second), energies, strict=True):
            path.write_text(str(energy))
        part.write_text(str(energies[0]))
        read.append(resources.sample()["processor_energy_joules"])
    assert read == [0.0, 2.5, 3.5]
    assert missing == []


@pytest.mark.parametrize("damage", ["gone", "a folder", "no number"])
def test_unreadable_energy_is_reported_once(missing: Missing, tmp_path: Path, damage: str) -> None:
    path = write_counter(tmp_path, "intel-rapl:0", "none")
    if damage != "no number":
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    resources = Resources(missing, energy=tmp_path)
    for _ in range(3):
        assert "processor_energy_joules" not in resources.sample()
    assert [what for what, _ in missing] == ["energy of intel-rapl:0"]
    assert "memory_bytes" in resources.sample(), "all else goes on"


# --- what cannot be read --------------------------------------------------------------------------


def fail(*arguments: object, **keywords: object) -> Any:
    raise psutil.AccessDenied(1, "somebody")


def test_unreadable_values_are_reported_once_and_left_out(
    missing: Missing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = Resources(missing, energy=tmp_path)
    assert "swap_bytes" in resources.sample()
    monkeypatch.setattr(psutil, "swap_memory", fail)
    for _ in range(3):
        sample = resources.sample()
        assert "swap_bytes" not in sample
        assert "memory_bytes" in sample
    assert [what for what, _ in missing] == ["machine"]
    assert missing[0][1].startswith("AccessDenied: ")


@pytest.mark.parametrize("why", ["ImportError", "AccessDenied"])
def test_without_psutil_python_measures_the_process(
    missing: Missing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "ImportError":
        monkeypatch.setitem(sys.modules, "psutil", None)
    else:
        monkeypatch.setattr(psutil, "cpu_percent", fail)
    resources = Resources(missing, energy=tmp_path)
    assert set(resources.sample()) == {"processor_ns", "peak_memory_bytes"}
    assert [what for what, _ in missing] == ["machine"]


# --- GPUs -----------------------------------------------------------------------------------------


class NVMLError(Exception):
    pass


class NotSupportedError(NVMLError):
    def __str__(self) -> str:
        return "Not Supported"


class Nvml:
    """NVML of two GPUs; a MIG slice or a small card does not have every value."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        self.cannot: set[tuple[str, int]] = set()

    def nvmlInit(self) -> None:  # noqa: N802
        if ("init", 0) in self.cannot:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def _read(self, what: str, handle: int, value: Any) -> Any:
        if (what, handle) in self.cannot:
            raise NotSupportedError
        return value

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return self._read("utilization", handle, SimpleNamespace(gpu=50 + handle, memory=7))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        memory = SimpleNamespace(total=80 << 30, used=(handle + 1) << 30, free=0)
        return self._read("memory", handle, memory)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> Any:  # noqa: N802
        return self._read("power", handle, 350_000)  # milliwatts

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._read("temperature", handle, 61)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> Any:  # noqa: N802
        return self._read("energy", handle, 12_345)  # millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nvml:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module\n")
    monkeypatch.setattr(module, "_NVIDIA", driver)
    made = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)  # type: ignore[arg-type]
    return made


def gpu_values(resources: Resources) -> dict[str, float]:
    return {name: value for name, value in resources.sample().items() if name.startswith("gpu")}


def test_each_gpu_has_names_of_its_own(missing: Missing, tmp_path: Path, nvml: Nvml) -> None:
    assert gpu_values(Resources(missing, energy=tmp_path)) == {
        "gpu0_utilization": 0.5,
        "gpu0_memory_bytes": 1 << 30,
        "gpu0_power_watts": 350.0,
        "gpu0_temperature_celsius": 61,
        "gpu0_energy_joules": 12.345,
        "gpu1_utilization": 0.51,
        "gpu1_memory_bytes": 2 << 30,
        "gpu1_power_watts": 350.0,
        "gpu1_temperature_celsius": 61,
        "gpu1_energy_joules": 12.345,
    }
    assert missing == []


def test_one_gpu_may_lack_a_value_that_another_has(
    missing: Missing, tmp_path: Path, nvml: Nvml
) -> None:
    nvml.cannot = {("utilization", 1), ("energy", 0)}
    resources = Resources(missing, energy=tmp_path)
    for _ in range(3):
        values = gpu_values(resources)
        assert len(values) == 8
        assert "gpu0_utilization" in values
        assert "gpu1_utilization" not in values
    assert missing == [
        ("energy of GPU 0", "NotSupportedError: Not Supported"),
        ("utilization of GPU 1", "NotSupportedError: Not Supported"),
    ]


@pytest.mark.parametrize("why", ["no library", "no driver"])
def test_unreadable_gpus_are_reported_once(
    missing: Missing, tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "no library":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        nvml.cannot = {("init", 0)}
    resources = Resources(missing, energy=tmp_path)
    assert gpu_values(resources) == gpu_values(resources) == {}
    assert missing == [
        ("GPUs", "nvidia-ml-py is not installed: metronorm[gpu]")
        if why == "no library"
        else ("GPUs", "NVMLError: Driver Not Loaded")
    ]
