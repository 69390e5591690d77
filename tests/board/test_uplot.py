"""uPlot is what its authors published, wherever it was fetched."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.board import uplot


def test_what_the_page_loads_has_its_hash() -> None:
    folder = uplot.uplot_folder()
    found = {
        name: hashlib.sha256((folder / Path(name).name).read_bytes()).hexdigest()
        for name in uplot.FILES
    }
    assert found == uplot.FILES
    assert "Permission is hereby granted" in (folder / "LICENSE").read_text()


def test_a_changed_file_does_not_count(tmp_path: Path) -> None:
    assert not uplot.is_whole(tmp_path)
    for path in uplot.uplot_folder().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert uplot.is_whole(tmp_path)
    with open(tmp_path / "uPlot.iife.min.js", "a") as file:
        file.write(" ")
    assert not uplot.is_whole(tmp_path)


def npm_that_runs(script: str, folder: Path) -> dict[str, str]:
    """The environment of a process whose npm is a script of the shell."""
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("script", "reported"),
    [
        ("echo 'no network' >&2; exit 1", "npm must give uplot 1.6.32; got no network"),
        ("exit 0", "npm must give uplot 1.6.32; got no file"),
        (
            "mkdir -p package/dist; echo x > package/LICENSE; echo x > package/dist/uPlot.min.css;"
            " echo x > package/dist/uPlot.iife.min.js; tar czf uplot-1.6.32.tgz package",
            "dist/uPlot.iife.min.js of uplot 1.6.32 must have its hash; got another",
        ),
    ],
)
def test_nothing_is_installed_that_npm_does_not_have(
    script: str, reported: str, tmp_path: Path
) -> None:
    target = tmp_path / "uplot"
    done = subprocess.run(
        [sys.executable, "-m", "metronorm.board.uplot", str(target)],
        env=npm_that_runs(script, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == f"uPlot was not fetched: {reported}\n"
    assert not target.exists()
