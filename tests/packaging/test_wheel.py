"""The wheel, installed into fresh environments without a compiler, and used there."""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

from metronorm.board.uplot import FILES

from .environments import Environment, linked
from .uses import TINY, USES, command, write_text

ROOT = Path(__file__).parents[2]
# without what the installation for development has compiled, a compiler works for minutes
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def built(kind: str, factory: pytest.TempPathFactory) -> Path:
    """The wheel or the sdist; what the installation for development has compiled is used.

    Of the processes that run tests side by side the first builds, in a folder that all share.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / kind
    with open(shared / "building", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            aside = shared / f"{kind}.aside"
            build = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation"]
            done = subprocess.run(
                [*build, "--outdir", aside, ROOT], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            aside.rename(folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", tmp_path_factory)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", tmp_path_factory)


def test_an_index_would_take_both(wheel: Path, sdist: Path) -> None:
    check = [sys.executable, "-m", "twine", "check", "--strict", wheel, sdist]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_has_all_of_the_package_and_licences_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name, digest in FILES.items():
            content = archive.read(f"metronorm/board/uplot/{Path(name).name}")
            assert hashlib.sha256(content).hexdigest() == digest
    source = ROOT / "src"
    listed = subprocess.run(
        ["git", "-C", source, "ls-files", "metronorm"], capture_output=True, text=True, check=False
    )
    own = set(listed.stdout.split())
    built = {"metronorm/clock/_ticking.abi3.so", "metronorm/norm/_kernels.so"}
    built |= {f"metronorm/board/uplot/{Path(name).name}" for name in FILES}
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    about.add(f"{info}/licenses/LICENSE")
    assert names >= built | about
    if own:  # a checkout of git knows what the package is
        assert names == own | built | about


def test_the_wheel_is_for_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"metronorm-[\d.]+-cp311-abi3-\w+\.whl", wheel.name)


def test_the_sdist_has_what_a_build_needs_and_no_results(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("LICENSE", "README.md", "CMakeLists.txt", "constraints.txt"):
        assert name in names
    for part in ("src", "csrc"):
        files = {
            f"{file.relative_to(ROOT)}"
            for file in (ROOT / part).rglob("*")
            if file.suffix in (".py", ".cpp", ".h", ".js", ".css", ".json")
            and "uplot/" not in str(file)
        }
        assert files
        assert files <= names
    assert not [
        name for name in names if re.match(r"\.|bench/results|runs|build|dist|.*\.so$", name)
    ]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment for training and the board."""
    folder = tmp_path_factory.mktemp("installed")
    write_text(folder)
    return linked(folder, wheel, ("train", "board"))


def readme_snippet() -> tuple[str, str]:
    """The first snippet of the front page, and what it prints."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```\n```text\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1], found[2]


def test_it_is_the_wheel_that_is_used(installed: Environment) -> None:
    code = "import metronorm; print(metronorm.__file__)"
    assert Path(installed.run("python", "-c", code).strip()).is_relative_to(installed.packages)


def test_the_first_snippet_of_the_front_page(installed: Environment) -> None:
    code, printed = readme_snippet()
    assert installed.run("python", "-W", "error", "-c", code).endswith(printed)


def test_the_norms_run_in_cpp(installed: Environment) -> None:
    code = "import metronorm.norm; print(metronorm.norm.backend())"
    assert installed.run("python", "-W", "error", "-c", code).strip() in (
        "plain",
        "avx2",
        "avx512",
        "avx512_bf16",
        "neon",
    )


def test_a_training_is_planned(installed: Environment) -> None:
    out = installed.run("metronorm", "train", *TINY.split(), "--dry-run")
    assert "parameters on cpu" in out


def test_the_board_answers(installed: Environment) -> None:
    """The command, and a real request."""
    board = subprocess.Popen(
        [installed.bin / "metronorm", "board", "--port", "0", "--no-open"],
        cwd=installed.folder,
        env=installed.variables(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert board.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", board.stdout.readline())
        assert found
        with urllib.request.urlopen(found[0]) as answer:
            page = answer.read().decode()
        assert (answer.status, "main.js" in page) == (200, True)
        board.terminate()
        assert board.wait(60) == 0
    finally:
        board.kill()
        board.communicate()


def test_the_doctor_finds_it_whole(installed: Environment) -> None:
    out = installed.run("metronorm", "doctor")
    assert re.search("compiler +none", out)
    assert re.search(r"clock +C\+\+", out)
    assert "fastapi" in out
    assert out.rstrip().endswith("no problems")


def test_without_extras_it_records_and_shows_and_says_what_is_missing(
    wheel: Path, tmp_path: Path
) -> None:
    bare = linked(tmp_path, wheel)
    code, printed = readme_snippet()
    assert bare.run("python", "-W", "error", "-c", code).endswith(printed)
    assert "finished" in bare.run("metronorm", "show", "runs/first")
    for command_line, extra in (("train", "train"), ("board", "board")):
        err = bare.run("metronorm", command_line, code=2)
        assert f"try: pip install 'metronorm[{extra}]'" in err
    out = bare.run("metronorm", "doctor")
    assert "torch missing" in out
    assert out.rstrip().endswith("no problems")


@pytest.mark.parametrize("extra", [extra for extra in USES if extra != "gpu"])
def test_an_extra_alone_is_enough_for_its_use(extra: str, wheel: Path, tmp_path: Path) -> None:
    write_text(tmp_path)
    # Keras computes on another package, of which the user has chosen one
    further = ("torch",) if extra == "keras" else ()
    alone = linked(tmp_path, wheel, (extra,), further)
    for use in USES[extra]:
        alone.run(*command(use))
