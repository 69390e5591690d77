"""How Sphinx makes the site of the Markdown pages: `make docs`.

The pages are plain Markdown, to be read on a code host too. So the navigation is made here, of the
lists of links in `index.md`, and the reference is generated (`write_reference.py`,
`write_commands.py`). The source folder is the repository, as README and CONTRIBUTING are pages.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT / "src")]

import write_commands  # noqa: E402
import write_reference  # noqa: E402

import metronorm.cli  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Metronorm"
version = release = metronorm.__version__
html_title = f"Metronorm {version}"

extensions = ["myst_parser", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "recipes/README.md",
    "README.md",
    "README.zh.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = ["docs/*.template.md", ".*", "build", "runs", "src", "csrc", "bench", "tests"]

html_theme = "furo"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_extra_path = ["site/index.html"]  # leads from the site's root to docs/index.html
html_show_copyright = html_show_sphinx = html_copy_source = html_use_index = False
html_domain_indices = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"  # the output and the prompts of examples

myst_heading_anchors = 4  # the anchors are those of code hosts
myst_enable_extensions = ["fieldlist"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

# Names of other packages cannot be looked up without a network; ours must all exist.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!metronorm\.).*")]
# An external link is checked by `sphinx-build -b linkcheck`, which needs a network.

_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\(([\w./-]+)\.md\)")


def navigation(text: str) -> str:
    """Hidden tables of contents: one for each section of a page, of its links to pages."""
    parts = []
    for title, content in _SECTION.findall(text):
        entries = [f"{name} <{place}>" for name, place in _LINK.findall(content)]
        if entries:
            head = ["```{toctree}", ":hidden:", f":caption: {title}", ""]
            parts.append("\n".join([*head, *entries, "```"]))
    return "\n\n".join(parts)


def generated(folder: str) -> str:
    """A list of generated pages with what each is about, and their table of contents."""
    pages = sorted((DOCS / folder).glob("*.md"))
    # behind the title comes the first line of a docstring, or what a command does
    first = {page.stem: page.read_text(encoding="utf-8").splitlines()[2] for page in pages}
    first = {name: about.replace("](../", "](") for name, about in first.items()}
    listed = [
        f"- [{name.removeprefix('metronorm.')}]({folder}/{name}.md): {about}"
        for name, about in first.items()
    ]
    contents = ["```{toctree}", ":hidden:", "", *(f"{folder}/{name}" for name in first), "```"]
    return "\n".join([*listed, "", *contents])


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add what a code host would show as code, or does not have."""
    if page == root_doc:
        source[0] += f"\n{navigation(source[0])}"
    elif page == "docs/commands":
        exit_codes = metronorm.cli.__doc__.partition("Exit codes:\n")[2]
        source[0] += f"\n{generated('commands')}\n\n## Exit codes\n{exit_codes}"
    elif page == "docs/python":
        source[0] += f"\n{generated('reference')}"


def with_generated_contents(app: Sphinx, *_: object) -> list[str]:
    """The pages that list generated ones are read at every build: these may be others now."""
    return ["docs/commands", "docs/python"]


def write_generated(app: Sphinx) -> None:
    """Write the reference anew if a source is newer."""
    for script, sources in (
        (write_reference, [*ROOT.glob("src/**/*.py"), *DOCS.glob("*.md")]),
        (write_commands, [*ROOT.glob("src/**/*.py")]),
    ):
        stamp = script.FOLDER / ".written"
        newest = max(path.stat().st_mtime for path in [*sources, Path(script.__file__)])
        if not stamp.exists() or stamp.stat().st_mtime < newest:
            write_reference.write(script.FOLDER, script.pages())
            stamp.touch()


def set_language(
    app: Sphinx, page: str, template: str, context: dict[str, object], doctree: object
) -> None:
    """Say of a page in Chinese that it is, to browsers and screen readers."""
    if page.endswith(".zh"):
        context["language"] = "zh-CN"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_lexer("tree", TextLexer)
    app.connect("builder-inited", write_generated)
    app.connect("env-get-outdated", with_generated_contents)
    app.connect("source-read", add_contents)
    app.connect("html-page-context", set_language)
    return {"parallel_read_safe": True}
