"""Installs the wheel with one extra after the other, by pip, and uses what the extra is for.

    python tests/packaging/extras.py dist/metronorm-*.whl
    python tests/packaging/extras.py dist/metronorm-*.whl --python python3.13 board analysis

Each is installed into an environment of its own. `test_wheel.py` does the same in a minute, with
links to what is installed already; this proves that an index has all of it. It prints the seconds
of the installation and of the use, and what the environment takes on the disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.packaging.environments import Environment  # noqa: E402
from tests.packaging.uses import RECORD, USES, command, write_text  # noqa: E402


def main() -> int:
    """Print a line for each extra; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="all of them by default")
    parser.add_argument("--python", default=sys.executable, help="the Python of the environments")
    arguments = parser.parse_intermixed_args()
    print(f"{'extra':<14}  install  use       disk", flush=True)
    failed = False
    for extra in arguments.extras or ["", *USES]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                line = try_extra(extra, arguments.wheel.absolute(), arguments.python, Path(folder))
            except (AssertionError, subprocess.CalledProcessError) as error:
                failed, line = True, f"failed: {error}"
        print(f"{extra or 'none':<14}  {line}", flush=True)
    return int(failed)


def try_extra(extra: str, wheel: Path, python: str, folder: Path) -> str:
    """Install an extra and use it; what it took."""
    write_text(folder)
    begin = time.monotonic()
    subprocess.run([python, "-m", "venv", folder / "env"], check=True)
    made = Environment(folder)
    what = [f"{wheel}[{extra}]" if extra else str(wheel)]
    if extra == "keras":  # it computes on another package, of which the user has chosen one
        what.append("torch")
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    pip = [made.bin / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *constraints, *what], check=True)
    installed = time.monotonic()
    for use in USES[extra] if extra else (RECORD, "metronorm show runs/first", "metronorm doctor"):
        made.run(*command(use))
    used = time.monotonic()
    size = sum(file.lstat().st_size for file in (folder / "env").rglob("*"))
    return f"{installed - begin:5.0f} s  {used - installed:3.0f} s  {size / 2**20:5,.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
