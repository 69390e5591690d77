"""`metronorm doctor` as a user runs it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.cli import main
from metronorm.cli.board import TOKEN


def test_a_report_can_be_shown_to_strangers(tmp_path: Path) -> None:
    home = tmp_path / "ann-of-the-hill"
    home.mkdir()
    names = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "ann-of-the-hill")
    secret = "s3cr3t-of-this-board"
    done = subprocess.run(
        [sys.executable, "-m", "metronorm", "doctor"],
        env={**os.environ, **names, "HOME": str(home), TOKEN: secret, "OMP_NUM_THREADS": "1"},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("folder ~, ", "OMP_NUM_THREADS  ", "norm backend", "opentelemetry-api"):
        assert part in done.stdout
    for name in ("ann-of-the-hill", secret, platform.node()):
        assert name not in done.stdout


def test_something_broken_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('no libcudart')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["broken"]
    assert report["problems"][0]["what"] == "torch must load; got OSError: no libcudart"


@pytest.mark.parametrize("package", ["tyro", "duckdb"])
def test_an_installation_without_what_it_depends_on_is_one_line(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from metronorm.cli import main; "
        "sys.exit(main(['show', 'runs/none']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"metronorm show: needs the package {package!r}; "
        "try: pip install --force-reinstall metronorm\n"
    )
