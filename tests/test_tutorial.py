"""The tutorial: what it shows is what its snippets print, in both languages."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from .test_docs import ROOT, TUTORIALS, blocks, run_page

ENGLISH, CHINESE = TUTORIALS


@pytest.mark.slow
def test_the_snippets_of_the_first_python_print_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(ENGLISH, capsys, lambda code: "tensorflow" not in code)  # those: tests/keras/test_page


def test_both_languages_have_the_same_snippets_but_for_comments() -> None:
    english, chinese = (
        [ast.dump(ast.parse(code)) for code in blocks(page, "python")] for page in TUTORIALS
    )
    assert english == chinese
    assert blocks(ENGLISH, "text") == blocks(CHINESE, "text")
    assert len(english) > 5


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_links_lead_to_pages_and_their_sections(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", page.read_text())
    assert links
    for name, section in links:
        target = page.parent / name
        assert target.exists(), name
        if section:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert section in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]


def test_the_pictures_are_what_their_script_draws() -> None:
    pictures = runpy.run_path(str(ROOT / "docs" / "plot_tutorial.py"))["pictures"]()
    assert len(pictures) == 3
    for path, picture in pictures.items():
        assert path.read_text() == picture, path.name
        assert all(f"({path.name})" in page.read_text() for page in TUTORIALS)
