"""Run as a program: loads torch and the kernels of the norms, and prints what they are.

Every line is a JSON object, printed as soon as it is known: the process may crash at the next step.
"""

from __future__ import annotations

import json
import warnings
from typing import Any


def say(**found: Any) -> None:
    """Print what was found."""
    print(json.dumps(found), flush=True)


def main() -> None:
    """Load one after another, and say what was loaded."""
    import torch

    say(
        version=torch.__version__,
        built_for=f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else "CPU",
        threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from metronorm.norm import backend
    say(norm_backend=backend(), **({"norm_warning": str(caught[0].message)} if caught else {}))
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            devices.append(f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})")
    say(devices=devices)


if __name__ == "__main__":
    main()
