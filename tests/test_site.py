"""The site of the docs: `make docs`."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metronorm.cli import COMMANDS
from tests.test_architecture import PUBLIC

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STARTS = [DOCS / "index.md", DOCS / "index.zh.md"]


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-c", str(DOCS)]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(target)],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    home = (tmp_path / "docs" / "index.html").read_text()
    assert all(f'href="{page}.html"' in home for page in ("clock", "commands", "../CONTRIBUTING"))
    assert '<html class="no-js" lang="zh-CN"' in (tmp_path / "README.zh.html").read_text()
    options = (tmp_path / "docs" / "commands" / "train.html").read_text()
    assert 'id="cmdoption-metronorm-train-ticks"' in options
    names = (tmp_path / "docs" / "reference" / "metronorm.clock.html").read_text()
    assert 'id="metronorm.clock.Clock.log"' in names


@pytest.mark.slow
def test_links_that_lead_nowhere_stop_the_building(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    links = ["missing.md", "index.md#nowhere", "../README.md#nowhere", "missing.py"]
    page = "".join(f"[a link]({link})\n\n" for link in links)
    (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n{page}")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    found = re.findall(r"index\.md:(\d+): WARNING: .*myst\.xref_missing", done.stderr)
    assert found == ["3", "5", "7", "9"]


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    script: dict[str, Any] = runpy.run_path(str(DOCS / "write_reference.py"))
    return dict(script["pages"]())


@pytest.mark.parametrize("module", [module for module in PUBLIC if module != "metronorm"])
def test_every_public_name_is_in_the_reference(module: str, reference: dict[str, str]) -> None:
    package = ".".join(module.split(".")[:2])
    for name in PUBLIC[module]:
        here = rf"^`+\{{py:\w+\}} {name}\b|^`{name}` is \{{py:obj\}}"
        _, _, section = reference[package].partition(f"# {module}\n")
        assert re.search(here, section.partition("\n## ")[0], re.MULTILINE), name


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "write_commands.py"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_says_what_its_help_says(
    command: str, commands: dict[str, Any]
) -> None:
    shown = commands["help_of"](command)
    page = re.sub(r"\{(option|program)\}|:no-contents-entry:", "", commands["page"](command, shown))
    assert f"# metronorm {command}\n\n{COMMANDS[command]}\n" in page
    # word by word, without what only one of them has: boxes, and marks of Markdown
    options = page.replace("\\", "").partition(f"metronorm {command}\n```\n\n## ")[2]
    words = re.findall(r"\w+", options.lower())
    assert words == re.findall(r"\w+", shown.partition("╭")[2].lower())


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name)
def test_every_page_is_found_from_the_start_pages(start: Path) -> None:
    linked = set(re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", start.read_text()))
    templates = {path.name for path in DOCS.glob("*.template.md")}
    pages = {path.name for path in DOCS.glob("*.md")} - templates - {start.name}
    assert pages <= linked
    assert all((DOCS / link).exists() for link in linked)
