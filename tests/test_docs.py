"""What README and the pages say is run, and both languages keep step."""

import doctest
import importlib
import json
import pkgutil
import re
import runpy
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import duckdb
import pytest

import metronorm.clock
from metronorm.cli import COMMANDS, main
from metronorm.clock import Clock
from metronorm.runs import open_run

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        "clock",
        "compare",
        "data",
        "diagnosis",
        "distributed",
        "finetune",
        "finetune-data",
        "import-export",
        "integrations",
        "layer-normalization",
        "live",
        "loss",
        "models",
        "notebooks",
        "tasks",
        "text",
        "ticks",
        "training",
        "tuning",
    )
]
BOARD = ROOT / "docs" / "board.md"  # its configuration of nginx is run by tests/board
KERAS = ROOT / "docs" / "keras.md"  # run by tests/keras, with TensorFlow
TUTORIALS = [ROOT / "docs" / f"tutorial{language}.md" for language in ("", ".zh")]  # test_tutorial


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_python_snippets_run_and_print_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, capsys)


def run_page(
    page: Path,
    capsys: pytest.CaptureFixture[str],
    wanted: Callable[[str], bool] = lambda code: True,
) -> None:
    """Run the wanted snippets. A block ```text right behind a snippet is its output.

    One that prints torch's version shows what that version does: others are not held to it.
    """
    constraints = (ROOT / "constraints.txt").read_text()
    other_torch = f"torch=={version('torch').split('+')[0]}" not in constraints.splitlines()
    found = re.findall(
        r"^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?",
        page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    found = [(code, output) for code, output in found if wanted(code)]
    assert found
    names = {"__name__": "page"}  # a page is read from top to bottom
    for code, output in found:
        exec(compile(code, str(page), "exec"), names)
        out = capsys.readouterr().out
        if output and not (other_torch and "torch.__version__" in code):
            assert out == output


@pytest.mark.parametrize("name", ["layer_normalization", "ticks"])
def test_the_plot_is_what_its_script_draws(name: str) -> None:
    script = runpy.run_path(str(ROOT / "docs" / f"plot_{name}.py"))
    assert script["PATH"].read_text() == script["svg"]()


def test_the_figures_are_those_of_the_newest_rows() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "write_figures.py"))
    templates = script["templates"]()
    assert {"figures.template.md", "reinforcement.template.md"} <= {one.name for one in templates}
    for template in templates:
        assert script["path_of"](template).read_text() == script["page"](template)
    with pytest.raises(LookupError):
        script["figure"](script["FIGURE"].match("{clock: no such case}"))
    assert [script["in_digits"](value, 3) for value in (0, 0.9, 5.529, 12933)] == [
        "0", "0.900", "5.53", "12,900"
    ]  # fmt: skip


def test_figures_of_recipes_are_means_over_their_rows(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "write_figures.py"))
    found = script["recipe_figure"].__globals__
    found["RECIPES"] = tmp_path
    rows: list[dict[str, object]] = [
        {"norm": "layer", "accuracy": 0.1, "command": "one"},  # measured anew below
        {"norm": "layer", "accuracy": 0.5, "command": "one"},
        {"norm": "layer", "accuracy": 0.7, "command": "two"},
        {"norm": "none", "accuracy": 0.25, "data": 1.0, "tick": 8.0, "command": "three"},
    ]
    (tmp_path / "vision.json").write_text(json.dumps(rows))

    def shown(figure: str) -> str:
        match = script["RECIPE_FIGURE"].fullmatch(figure)
        return str(script["recipe_figure"](match))

    assert shown("{recipes/vision: norm=layer; accuracy; 2}") == "0.60 ± 0.14"
    assert shown("{recipes/vision: norm=none; accuracy%}") == "25.0\N{NARROW NO-BREAK SPACE}%"
    assert shown("{recipes/vision: ; data/tick%}") == "12.5\N{NARROW NO-BREAK SPACE}%"
    assert shown("{recipes/vision: norm=none; command}") == "three"
    assert shown("{recipes/vision: ; rows}") == "3"
    with pytest.raises(LookupError, match="batch"):
        shown("{recipes/vision: norm=batch; accuracy}")


@pytest.mark.parametrize("page", [*PAGES, BOARD, KERAS, *TUTORIALS], ids=lambda page: page.stem)
def test_links_to_sections_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert links
    assert set(links) <= anchors


def test_sql_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Clock("runs/one", progress=False) as clock:
        for value in clock.ticks([3.0, 2.0]):
            clock.log(loss=value)
    queries = blocks(ROOT / "docs" / "runs.md", "sql")
    assert queries
    for query in queries:
        assert sorted(duckdb.sql(query).fetchall()) == [(0, 1, 3.0), (0, 2, 2.0)]


def modules() -> list[str]:
    found = pkgutil.walk_packages(metronorm.__path__, "metronorm.")
    apart = ("__main__", "_kernels", "_jax", "_tensorflow")
    return [module.name for module in found if not module.name.endswith(apart)]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_docstring_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(metronorm.clock).attempted > 2


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    assert lines
    for line in lines:
        words = line.split("#")[0].split()
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
        elif words[:1] == ["metronorm"]:
            assert words[1] in COMMANDS, line


def test_the_task_of_the_front_page_is_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (own,) = [block for block in blocks(README, "python") if "def task(config)" in block]
    Path("own.py").write_text(own)
    quick = "--ticks 2 --precision fp32 --allocator system"
    assert main(["train", "--recipe", "own.py", "--width", "8", *quick.split()]) == 0
    assert open_run("runs/own").ticks().rows()[-1]["validation_accuracy"] > 0


def test_both_languages_show_the_same_code_but_for_comments() -> None:
    for language in ("python", "bash"):
        english, chinese = (
            [re.sub(r" +# .*", "", block) for block in blocks(page, language)]
            for page in (README, CHINESE)
        )
        assert english == chinese
        assert len(english) > 1
    assert blocks(README, "text") == blocks(CHINESE, "text")


def test_the_front_pages_are_short_and_their_links_lead_somewhere() -> None:
    for page in (README, CHINESE):
        text = page.read_text()
        assert len(text.splitlines()) <= 200
        links = re.findall(r"\]\(([^)#]+)\)", text)
        assert links
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_benchmark_commands_exist() -> None:
    for path in (README, CHINESE):
        named = re.findall(r"`(?:python )?(bench/\w+\.py)", path.read_text())
        assert named
        assert all((ROOT / name).exists() for name in named)


def test_files_that_the_tour_names_exist() -> None:
    text = (ROOT / "docs" / "tour.md").read_text()
    names = re.findall(r"`(\w+/\w+\.(?:py|cpp))`", text)
    assert names
    folders = (ROOT, ROOT / "src" / "metronorm")
    assert [name for name in names if not any((top / name).exists() for top in folders)] == []


def test_our_words_are_in_the_glossary_and_in_the_front_pages() -> None:
    """The front pages define those that they use; the others come later in the docs."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    table = text.partition("## Eight words")[2].partition("\n## ")[0]
    words = re.findall(r"^\| (\w+) \|", table, re.MULTILINE)
    assert words == ["word", "tick", "beat", "phase", "run", "attempt", "tape", "seal", "window"]
    for page in (README, CHINESE):
        beginning = page.read_text().partition("\n## ")[0]
        for word in ("tick", "beat", "phase", "run", "window"):
            assert re.search(f"[*\uff08]{word}s?\\b", beginning), word  # or in Chinese brackets


def test_the_annotated_tree_is_the_tree() -> None:
    """Every path of the tour's tree exists, and every package is in it."""
    (tree,) = blocks(ROOT / "docs" / "tour.md", "tree")
    named = {line.split()[0] for line in tree.splitlines()}
    assert [name for name in named if not (ROOT / name).exists()] == []
    packages = (ROOT / "src" / "metronorm").rglob("*/__init__.py")
    assert {f"{path.parent.relative_to(ROOT)}/" for path in packages} <= named


# Package registries and their settings, and folders that only one machine has.
OF_A_MACHINE = re.compile(
    r"pypi\.org|pythonhosted\.org|anaconda\.(?:org|com)|npmjs\.(?:org|com)|download\.pytorch\.org"
    r"|huggingface\.co|index[-_]url|find[-_]links|artifactory|//[\w.-]+\.(?:internal|local|lan)\b"
    r"|(?<![\w.~>/-])/(?:home|Users|root|work|mnt|srv|workspace)/\w",
    re.IGNORECASE,
)
FOLDERS = ("src", "csrc", "docs", "tests", "bench", "recipes", ".ci")
SUFFIXES = {"", ".cpp", ".csv", ".h", ".md", ".py", ".pyi", ".svg", ".toml", ".txt", ".yaml"}


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files = [path for path in [*ROOT.iterdir(), *files] if path.suffix in SUFFIXES]
    files = [path for path in files if path.is_file() and path != Path(__file__)]
    assert {ROOT / "Makefile", ROOT / "README.md", ROOT / "src/metronorm/files.py"} <= {*files}
    found = {path: match[0] for path in files if (match := OF_A_MACHINE.search(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize("text", ["cd /home/me/x", "https://pypi.org/simple", "http://a.internal"])
def test_a_registry_or_a_folder_of_one_machine_is_found(text: str) -> None:
    assert OF_A_MACHINE.search(text)


@pytest.mark.parametrize("text", ["DIR/home/x", "~/work/x", "http://127.0.0.1", "/dev/null"])
def test_other_addresses_and_paths_may_be_named(text: str) -> None:
    assert not OF_A_MACHINE.search(text)
