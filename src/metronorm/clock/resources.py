"""What the process and its machine use: samples of everything that can be read here."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.memory import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Probe = Callable[[], dict[str, float]]

_RAPL = Path("/sys/class/powercap")
_NVIDIA = Path("/proc/driver/nvidia/version")


class Resources:
    """Samples CPU, memory, disk, network, energy and GPUs, by psutil and NVML.

    The unit is part of a value's name. Values with `_ns` and `_joules`, and `_bytes` of disk and
    network, count up from the start of the process or machine; others are of the moment.

    Args:
        on_missing: called as `(what, why)`, once for each thing that exists but cannot be read.
        energy: the directory in which Linux shows the CPU's energy counters (RAPL).
    """

    def __init__(self, on_missing: Callable[[str, str], None], *, energy: Path = _RAPL) -> None:
        self._on_missing = on_missing
        self._probes: dict[str, Probe] = {"process": _own_process}
        try:
            import psutil

            process = psutil.Process()
            psutil.cpu_percent()  # each call returns the share since the last one
        except ImportError:
            on_missing("machine", "psutil is not installed")
        except Exception as error:  # psutil has errors of its own
            on_missing("machine", f"{type(error).__name__}: {error}")
        else:
            self._probes |= {
                "memory": lambda: _memory(process),
                "children": lambda: _children(process),
                "machine": lambda: _machine(psutil),
                "disk": lambda: _disk(process),
                "network": lambda: _network(psutil),
            }
        for path in sorted(energy.glob("intel-rapl:[0-9]*")):
            if path.name.count(":") == 1:  # a whole CPU package, not a part of it
                counter = _EnergyCounter(path)
                self._probes[f"energy of {path.name}"] = counter.read
        if _NVIDIA.exists():
            self._add_gpus()

    def sample(self) -> dict[str, float]:
        """One sample, values by name; a thing that cannot be read is left out from then on."""
        values: dict[str, float] = {}
        for what, probe in list(self._probes.items()):
            try:
                for name, value in probe().items():
                    values[name] = values.get(name, 0) + value
            # each library has errors of its own (psutil's, NVML's), and none may reach training
            except Exception as error:
                del self._probes[what]
                self._on_missing(what, f"{type(error).__name__}: {error}")
        return values

    def _add_gpus(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                for what, probe in _gpu_probes(pynvml, handle, index):
                    self._probes[f"{what} of GPU {index}"] = probe
        except ImportError:
            self._on_missing("GPUs", "nvidia-ml-py is not installed: metronorm[gpu]")
        except Exception as error:  # NVML has errors of its own
            self._on_missing("GPUs", f"{type(error).__name__}: {error}")


def _own_process() -> dict[str, float]:
    return {
        "processor_ns": time.process_time_ns(),
        "peak_memory_bytes": peak_bytes(),
    }


def _memory(process: Any) -> dict[str, float]:
    """Resident memory; if known, also the part that is mapped files and shared memory."""
    memory = process.memory_info()
    shared = getattr(memory, "shared", None)
    return {"memory_bytes": memory.rss} | (
        {} if shared is None else {"shared_memory_bytes": shared}
    )


def _children(process: Any) -> dict[str, float]:
    """Memory and CPU time of all living child processes, such as data loader workers."""
    memory = spent = 0.0
    for child in process.children(recursive=True):
        with contextlib.suppress(Exception):  # the child may end meanwhile
            times = child.cpu_times()
            memory += child.memory_info().rss
            spent += times.user + times.system
    if not memory:
        return {}
    return {"children_memory_bytes": memory, "children_processor_ns": round(spent * 1e9)}


def _machine(psutil: Any) -> dict[str, float]:
    return {
        "machine_memory_available_bytes": psutil.virtual_memory().available,
        "machine_processor_share": psutil.cpu_percent() / 100,
        "swap_bytes": psutil.swap_memory().used,
    }


def _disk(process: Any) -> dict[str, float]:
    counters = process.io_counters()
    return {"disk_read_bytes": counters.read_bytes, "disk_written_bytes": counters.write_bytes}


def _network(psutil: Any) -> dict[str, float]:
    counters = psutil.net_io_counters()
    return {
        "network_received_bytes": counters.bytes_recv,
        "network_sent_bytes": counters.bytes_sent,
    }


class _EnergyCounter:
    """Makes joules that only grow of a counter of microjoules that starts again at 0."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: int | None = None
        self._joules = 0.0

    def read(self) -> dict[str, float]:
        now = int((self._folder / "energy_uj").read_text())
        if self._last is not None:
            spent = now - self._last
            if spent < 0:
                spent += int((self._folder / "max_energy_range_uj").read_text())
            self._joules += spent / 1e6
        self._last = now
        return {"processor_energy_joules": self._joules}


def _gpu_probes(nvml: Any, handle: Any, index: int) -> Iterator[tuple[str, Probe]]:
    name = f"gpu{index}_{{}}".format

    yield (
        "utilization",
        lambda: {name("utilization"): nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100},
    )
    yield (
        "memory",
        lambda: {name("memory_bytes"): nvml.nvmlDeviceGetMemoryInfo(handle).used},
    )
    yield (
        "power",
        lambda: {name("power_watts"): nvml.nvmlDeviceGetPowerUsage(handle) / 1e3},
    )
    yield (
        "temperature",
        lambda: {
            name("temperature_celsius"): nvml.nvmlDeviceGetTemperature(
                handle, nvml.NVML_TEMPERATURE_GPU
            )
        },
    )
    yield (
        "energy",
        lambda: {name("energy_joules"): nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3},
    )
