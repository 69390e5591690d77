"""The shape of the package: exports, docstrings, sizes, and what imports what."""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import metronorm
from metronorm import errors

SOURCE = Path(metronorm.__file__).parent

# What every package exports: `__all__` of its `__init__.py`, also where nothing is public.
PUBLIC = {
    "metronorm": {"__version__"},
    "metronorm.board": {"plot"},
    "metronorm.board.series": {"Chart", "Column", "Reduced", "RunSeries", "Stretch", "read_ahead"},
    "metronorm.checkpoints": set(),
    "metronorm.cli": {"COMMANDS", "main"},
    "metronorm.clock": {"Clock", "RunInfo", "StallWatch", "check_free", "read_run_info"},
    "metronorm.clock.hooks": {"Watch"},
    "metronorm.data": {
        "InOrder",
        "Mixture",
        "Planned",
        "Shuffled",
        "TextConfig",
        "TextDataset",
        "Tokenizer",
        "WindowSampler",
        "czech_lines",
        "fashion_mnist",
        "find_pitch",
        "load_tokenizer",
        "log_mel",
        "mandarin_syllables",
        "movielens_100k",
        "open_dataset",
        "prepare",
        "read_sound",
        "resample",
        "stream_decode",
        "validation_windows",
    },
    "metronorm.doctor": {"Problem", "Report", "examine"},
    "metronorm.finetune": {
        "AdaptConfig",
        "Config",
        "DataConfig",
        "defaults",
        "finetune",
        "load_tuned",
    },
    "metronorm.integrations": set(),
    "metronorm.integrations.importing": {
        "import_run",
        "import_tensorboard",
        "import_trackio",
        "import_wandb",
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
    "metronorm.loss": {"linear_cross_entropy"},
    "metronorm.models": {
        "GPT",
        "PRESETS",
        "ActorCritic",
        "ConvNeXt",
        "Encoder",
        "EncoderConfig",
        "GPTConfig",
        "KVCache",
        "SASRec",
        "SpeechEncoder",
        "ViT",
        "load_encoder",
        "load_gpt",
        "preset",
        "sample",
        "save_gpt",
    },
    "metronorm.models.layouts": {"LAYOUTS", "layout_for"},
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
    "metronorm.planning": {"Plan", "Prediction", "plan"},
    "metronorm.runs": {
        "Follower",
        "Run",
        "Sample",
        "Table",
        "compare",
        "diagnose",
        "open_run",
        "summarize",
    },
    "metronorm.runs.comparing": {
        "Comparison",
        "LossAt",
        "Measure",
        "Reached",
        "Side",
        "Verdict",
        "compare",
    },
    "metronorm.runs.diagnosing": {
        "SEVERITIES",
        "Finding",
        "Severity",
        "at_least",
        "diagnose",
        "evidence_in_words",
    },
    "metronorm.runs.following": {"Follower", "Snapshot"},
    "metronorm.store": set(),
    "metronorm.tasks": set(),
    "metronorm.tasks.text": {
        "Config",
        "generate_text",
        "load_model",
        "task",
        "training_preset",
        "without_cache",
    },
    "metronorm.tune": {"Space", "Study", "open_study", "read_space"},
    "metronorm.train": {
        "Hook",
        "Moment",
        "OptimizerConfig",
        "Order",
        "Task",
        "TrainConfig",
        "train",
    },
}

LARGEST_SHARE = 0.14  # of the lines of the package, for the room with the most lines

# The rooms that each room may import; all rooms may import the modules in COMMON.
ARROWS = {
    "store": set(),
    "clock": {"store"},
    "runs": {"store"},
    "memory": {"cgroup"},
    "norm": set(),
    "optim": set(),
    "loss": set(),
    "models": {"norm", "loss"},
    "data": set(),
    "checkpoints": set(),
    "train": {"checkpoints", "optim", "clock"},
    "planning": {"train", "checkpoints", "optim", "clock"},
    "tasks": {"train", "checkpoints", "models", "data", "loss", "norm", "optim"},
    "finetune": {
        "tasks",
        "train",
        "checkpoints",
        "models",
        "data",
        "loss",
        "norm",
        "optim",
        "planning",
        "runs",
    },
    "tune": {"finetune", "optim", "planning", "runs", "store", "tasks", "train"},
    "integrations": {"clock", "runs", "store"},
    "keras": {"clock", "integrations", "norm"},
    "board": {"runs", "store"},
    "doctor": {"board", "cgroup", "clock", "norm", "store"},
    "cli": {
        "board",
        "clock",
        "doctor",
        "runs",
        "store",
        "norm",
        "optim",
        "models",
        "data",
        "train",
        "planning",
        "tasks",
        "finetune",
        "tune",
        "integrations",
    },
}
COMMON = {"allocator", "errors", "files", "host", "markup", "memory", "ranks", "scalars", "text"}


def imports(path: Path, tree: ast.Module | None = None) -> set[str]:
    """Names of the modules that a file, or only its `tree`, imports anywhere."""
    found = set()
    for node in ast.walk(tree or ast.parse(path.read_text())):
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
    assert len(loaded.__all__) == len(PUBLIC[module])
    assert all(hasattr(loaded, name) for name in loaded.__all__)


def test_the_exports_of_every_package_are_pinned() -> None:
    packages = {file.parent.relative_to(SOURCE.parent) for file in SOURCE.rglob("__init__.py")}
    assert PUBLIC.keys() == {".".join(package.parts) for package in packages}


def without_docstring(body: list[ast.stmt], where: str) -> list[str]:
    """The public functions, classes and methods in a module or class that have no docstring."""
    found = []
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            found += without_docstring([*node.body, *node.orelse], where)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            # an overload has its docstring at the implementation, a setter at the property
            if any(name == "overload" or name.endswith(".setter") for name in decorators):
                continue
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                found.append(f"{where}{node.name}, line {node.lineno}")
            if isinstance(node, ast.ClassDef):
                found += without_docstring(node.body, f"{where}{node.name}.")
    return found


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        name
        for path in sorted(SOURCE.rglob("*.py"))
        for name in without_docstring(
            ast.parse(path.read_text()).body, f"{path.relative_to(SOURCE)}: "
        )
    ]
    assert missing == []


def test_no_room_is_much_larger_than_the_others() -> None:
    lines: Counter[str] = Counter()
    for path in SOURCE.rglob("*.py"):
        lines[path.relative_to(SOURCE).parts[0]] += len(path.read_text().splitlines())
    ((room, most),) = lines.most_common(1)
    share = most / lines.total()
    assert share < LARGEST_SHARE, f"{room} has {most:,} of {lines.total():,} lines, {share:.1%}"


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
        assert used <= ARROWS.get(part, set()) | COMMON | {part}, file


def loaded_with(path: Path) -> set[str]:
    """Names of the modules that a file imports when it is loaded: not for types or in functions."""
    tree = ast.parse(path.read_text())
    tree.body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return imports(path, tree)


def test_no_module_is_in_a_circle() -> None:
    names = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    needs = {}
    for name, path in names.items():
        found = loaded_with(path)
        found |= {other.rpartition(".")[0] for other in found if other not in names}
        needs[name] = (found & names.keys()) - {name}
    while free := [name for name, needed in needs.items() if not needed]:
        for name in free:
            del needs[name]
        needs = {name: needed - set(free) for name, needed in needs.items()}
    assert needs == {}, "modules in a circle, and modules that import these"


def test_clock_and_command_line_name_no_framework() -> None:
    rooms = ("store", "clock", "runs", "cli")
    for file in (file for room in rooms for file in (SOURCE / room).rglob("*.py")):
        roots = {name.partition(".")[0] for name in imports(file)}
        assert not roots & {"torch", "tensorflow", "jax", "keras"}, file


@pytest.mark.parametrize(
    "statement",
    [
        "import metronorm",
        "import metronorm.clock",
        "import metronorm.runs",
        "import metronorm.tasks.text",
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
