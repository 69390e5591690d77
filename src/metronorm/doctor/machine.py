"""What the machine has: CPU, memory, disks, GPUs, a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from metronorm.cgroup import limit_bytes
from metronorm.host import describe_host
from metronorm.memory import available_bytes
from metronorm.store.ring import shared_folder

# Those that our kernels, torch or a compiler make use of, as the system names them.
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "Neon",
    "sve": "SVE",
    "sve2": "SVE2",
    "bf16": "bf16",
    "i8mm": "int8 matrices",
}
_COMPILERS = ("c++", "g++", "clang++")


def cpu() -> dict[str, Any]:
    """Model, cores, those that this process may use, and instruction sets."""
    host = describe_host()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else host["cores"]
    return {"model": host["processor"], "cores": host["cores"], "usable_cores": usable}


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str] | None:
    """Those of the CPU that matter for training; None: the system does not list them.

    Args:
        cpuinfo: the file with Linux's list.
    """
    if not cpuinfo.exists():
        return None
    for line in cpuinfo.read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            has = flags.split()
            return [words for flag, words in _INSTRUCTIONS.items() if flag in has]
    return None


def memory() -> dict[str, int | None]:
    """Bytes of the machine, bytes that this process can have, and the limit of its container."""
    return {
        "total_bytes": describe_host()["memory_bytes"],
        "available_bytes": available_bytes(),
        "limit_of_container_bytes": limit_bytes(),
    }


def shared_memory() -> dict[str, Any]:
    """Where the clock keeps what is not on the disk yet: it survives a killed process."""
    return _space(shared_folder())


def disk(folder: Path) -> dict[str, Any]:
    """The disk on which a folder is, or would be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return _space(folder)


def _space(folder: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(folder)
    return {
        "folder": str(folder),
        "file_system": file_system(folder),
        "total_bytes": usage.total,
        "free_bytes": usage.free,
        "writable": os.access(folder, os.W_OK | os.X_OK),
    }


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The kind of file system that a folder is on, such as "ext4"; None: it is not known.

    Args:
        folder: must exist.
        mounts: the file with Linux's list.
    """
    if not mounts.exists():
        return None
    found, longest = None, -1
    place = folder.resolve()
    for line in mounts.read_text().splitlines():
        _, target, kind, *_ = line.split(" ")
        target = target.replace("\\040", " ")
        if place.is_relative_to(target) and len(target) >= longest:
            found, longest = kind, len(target)
    return found


def gpus() -> list[dict[str, Any]] | str:
    """The GPUs that NVIDIA's driver lists; text says why there are none to see."""
    if not Path("/proc/driver/nvidia/version").exists():
        return "no driver of NVIDIA"
    try:
        import pynvml
    except ImportError:
        return "not listed, as nvidia-ml-py is not installed"
    pynvml.nvmlInit()
    try:
        return [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name, driver = nvml.nvmlDeviceGetName(handle), nvml.nvmlSystemGetDriverVersion()
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "name": name.decode() if isinstance(name, bytes) else name,
        "driver": driver.decode() if isinstance(driver, bytes) else driver,
        "total_bytes": memory.total,
        "free_bytes": memory.free,
    }


def compiler() -> str | None:
    """The first line in which the C++ compiler says what it is; None: there is none."""
    for name in (os.environ.get("CXX"), *_COMPILERS):
        if name and (path := shutil.which(name)):
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
            return f"{done.stdout.partition(chr(10))[0]}, {path}"
    return None
