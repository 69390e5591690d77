"""The shape of the package: what it exports, what may import what, what loads no framework."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import metronorm
from metronorm import errors

SOURCE = Path(metronorm.__file__).parent

PUBLIC = {
    "metronorm": {"__version__"},
    "metronorm.clock": {
        "Clock",
        "Run",
        "RunInfo",
        "StallWatch",
        "Table",
        "check_free",
        "open_run",
        "read_run_info",
    },
    "metronorm.keras": {
        "LayerNormalization",
        "RMSNormalization",
        "TickCallback",
        "Ticks",
        "layer_normalization",
        "replace_norms",
        "rms_normalization",
        "windows",
    },
    "metronorm.norm": {
        "AddLayerNorm",
        "AddRMSNorm",
        "LayerNorm",
        "LayerNorm2d",
        "RMSNorm",
        "add_layer_norm",
        "add_rms_norm",
        "backend",
        "fuse_residuals",
        "layer_norm",
        "layer_norm_2d",
        "observe",
        "replace_norms",
        "rms_norm",
    },
    "metronorm.optim": {
        "LearningRateSearch",
        "Ticks",
        "TicksAdam",
        "TicksMuon",
        "TicksSign",
        "Window",
        "find_learning_rate",
        "windows",
    },
    "metronorm.train": {"OptimizerConfig", "TrainConfig", "train", "training_preset"},
}

# What each part may import of the others; errors, files and text are everybody's.
ARROWS = {
    "errors": set(),
    "files": set(),
    "scalars": set(),
    "text": set(),
    "clock": set(),
    "norm": set(),
    "optim": set(),
    "models": {"norm"},
    "data": set(),
    "train": {"models", "data", "optim", "clock"},
    "board": {"clock"},
    "integrations": {"clock"},
    "keras": {"clock", "integrations", "norm"},
    "cli": {"clock", "norm", "optim", "models", "data", "train", "board", "integrations"},
}
COMMON = {"errors", "files", "scalars", "text"}


def imports(path: Path) -> set[str]:
    """Names of all modules a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert set(loaded.__all__) == PUBLIC[module]
    assert all(hasattr(loaded, name) for name in loaded.__all__)


def parts() -> list[str]:
    return sorted(
        path.stem
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    )


@pytest.mark.parametrize("part", [part for part in parts() if not part.startswith("__")])
def test_imports_point_down(part: str) -> None:
    files = (
        [SOURCE / f"{part}.py"]
        if (SOURCE / f"{part}.py").exists()
        else (SOURCE / part).rglob("*.py")
    )
    for file in files:
        used = {
            name.split(".")[1]
            for name in imports(file)
            if name.startswith("metronorm.") and name != "metronorm.__version__"
        }
        assert used <= ARROWS[part] | COMMON | {part}, file


def test_clock_and_command_line_name_no_framework() -> None:
    for file in [*(SOURCE / "clock").rglob("*.py"), *(SOURCE / "cli").rglob("*.py")]:
        roots = {name.partition(".")[0] for name in imports(file)}
        assert not roots & {"torch", "tensorflow", "jax", "keras"}, file


@pytest.mark.parametrize(
    "statement",
    [
        "import metronorm",
        "import metronorm.clock",
        "import metronorm.train.presets",
        "from metronorm.cli import main; main(['--help'])",
    ],
)
def test_loads_no_framework(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "metronorm" in loaded
    assert not loaded & {"torch", "tensorflow", "jax", "keras", "numpy", "duckdb"}


def test_every_error_is_in_the_drawn_tree() -> None:
    assert errors.__doc__ is not None
    defined = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(defined) >= 7
    for error in defined:
        assert issubclass(error, errors.MetronormError)
        assert error.__name__ in errors.__doc__


def test_error_says_what_must_hold_what_arrived_what_to_try() -> None:
    error = errors.ConfigError("a must be 1", got="2", fix="a=1")
    assert str(error) == "a must be 1; got 2; try: a=1"
    assert isinstance(error, ValueError)
    assert str(errors.DataError("only this")) == "only this"
