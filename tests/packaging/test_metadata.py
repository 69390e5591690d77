"""What `pyproject.toml` says of packages is what the code imports, in both directions."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import metronorm
from metronorm.doctor.packages import EXTRAS, FURTHER

ROOT = Path(__file__).parents[2]
SOURCE = Path(metronorm.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Extras and further packages whose modules each room may import beside what is always there.
ROOMS: dict[str, set[str]] = {
    "board": {"board", "analysis"},
    "checkpoints": {"train"},
    "clock": {"gpu"},
    "data": {"train", "text", "sound"},
    "doctor": {"gpu", "torch"},
    "finetune": {"finetune"},
    "integrations": {
        "accelerate",
        "analysis",
        "finetune",
        "lightning",
        "opentelemetry",
        "prometheus",
        "tensorboard",
        "torch",
        "trackio",
        "wandb",
    },
    "keras": {"keras", "torch", "jax", "tensorflow"},
    "loss": {"torch"},
    "models": {"train"},
    "norm": {"torch", "triton"},
    "optim": {"torch", "analysis"},
    "planning": {"train"},
    "runs": {"analysis"},
    "tasks": {"train"},
    "train": {"train"},
    "tune": {"tune", "analysis"},
}
# Modules that are called otherwise than the package, which pip knows.
PACKAGES = {
    "PIL": "pillow",
    "backports": "backports.zstd",
    "docstring_parser": "docstring-parser",
    "mlflow": "mlflow-skinny",
    "optimi": "torch-optimi",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "tomli_w": "tomli-w",
    "traceml_ai": "traceml-ai",
}
# Packages that come with another one, of which they are a part or whose types they have.
WITH = {
    "google": {"tensorboard", "wandb"},  # protobuf
    "numpy": {"keras"},
    "opentelemetry": {"opentelemetry-api"},
    "pygments": {"sphinx"},
    "starlette": {"fastapi"},
}
# Packages that are used without an import, and by what.
USED_BY = {
    "accelerate": "transformers, which places large models with it",
    "ipykernel": "Jupyter, which runs notebooks with it",
    "nbformat": "Plotly, which shows figures in a notebook with it",
    "gguf": "transformers, which reads GGUF files with it",
    "pandas": "DuckDB, which makes data frames with it",
    "pyarrow": "DuckDB, which makes tables of Arrow with it",
}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower()


def packages_of(extra: str) -> set[str]:
    """The packages that an extra installs, with those of the extras that it contains."""
    found = set()
    for each in PROJECT["optional-dependencies"][extra]:
        if name_of(each) == "metronorm":
            for other in re.findall(r"\[(.*)\]", each)[0].split(","):
                found |= packages_of(other)
        else:
            found.add(name_of(each))
    return found


ALWAYS = {name_of(each) for each in PROJECT["dependencies"]}


def imported(files: Iterator[Path]) -> set[str]:
    """The packages of which modules are imported, also by name: `library("peft")`."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
            elif (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("library", "importlib.import_module")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                found.add(node.args[0].value)
    roots = {name.partition(".")[0] for name in found}
    scripts = [
        file for folder in ("bench", "docs", "recipes") for file in (ROOT / folder).glob("*.py")
    ]
    own = {"metronorm", "tests", "lib", *(file.stem for file in scripts)}
    return {PACKAGES.get(name, name) for name in roots - sys.stdlib_module_names - own}


def files_of(room: str) -> Iterator[Path]:
    return iter([SOURCE / f"{room}.py"]) if room.endswith("py") else (SOURCE / room).rglob("*.py")


def allowed(extras: set[str]) -> set[str]:
    """The packages that are there after an installation with some extras."""
    found = ALWAYS | {each for each in extras if each in FURTHER}
    for extra in extras - FURTHER.keys():
        found |= packages_of(extra)
    return found | {name for name, hosts in WITH.items() if hosts & found}


@pytest.mark.parametrize("room", [path.name for path in SOURCE.iterdir() if path.is_dir()])
def test_what_a_room_imports_is_installed_by_its_extra(room: str) -> None:
    # a value that a user passes has brought its own package
    passed = {"numpy"} if room == "clock" else set()
    assert imported(files_of(room)) <= allowed(ROOMS.get(room, set())) | passed


def test_modules_outside_of_rooms_need_what_is_always_there() -> None:
    assert imported(SOURCE.glob("*.py")) <= ALWAYS


def test_what_is_always_installed_is_imported() -> None:
    assert imported(SOURCE.rglob("*.py")) >= ALWAYS


def test_the_command_line_knows_what_is_always_installed() -> None:
    from metronorm.cli import _ALWAYS

    assert {PACKAGES.get(name, name) for name in _ALWAYS} == ALWAYS


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_an_extra_installs_is_imported_by_its_rooms(extra: str) -> None:
    rooms = [room for room, extras in ROOMS.items() if extra in extras]
    # what an extra contains may be used by the rooms of that extra
    inner = {
        other for other in EXTRAS if other != extra and packages_of(other) < packages_of(extra)
    }
    rooms += [room for room, extras in ROOMS.items() if inner & extras]
    used = {name for room in rooms for name in imported(files_of(room))}
    used |= {host for name, hosts in WITH.items() if name in used for host in hosts}
    assert rooms
    assert packages_of(extra) <= used | USED_BY.keys()


def test_the_doctor_knows_every_extra() -> None:
    assert PROJECT["optional-dependencies"].keys() == {*EXTRAS, "bench", "dev", "docs"}


@pytest.mark.parametrize(
    ("folder", "extra"), [("tests", "dev"), ("recipes", "dev"), ("docs", "dev"), ("bench", "bench")]
)
def test_what_is_beside_the_package_imports_what_its_extra_installs(
    folder: str, extra: str
) -> None:
    # used only where they are, or in a test of what there is not
    others = {"tensorflow", "wandb", "liger_kernel", "no_such_module"}
    assert imported((ROOT / folder).rglob("*.py")) <= allowed({extra}) | others


def test_every_version_for_development_is_allowed_by_the_metadata() -> None:
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().lower().splitlines()
        if "==" in line
    )
    every = [each for part in PROJECT["optional-dependencies"].values() for each in part]
    every += PROJECT["dependencies"]
    for requirement in map(Requirement, every):
        version = pinned.get(requirement.name.lower())
        assert version is None or requirement.specifier.contains(version), requirement
    assert {name_of(each) for each in every} - pinned.keys() == {"metronorm"}
