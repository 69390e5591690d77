"""Open each notebook in JupyterLab in a real browser, run all its cells, and take pictures.

    pip install 'metronorm[train,finetune,notebook]' jupyterlab playwright    # and a Chromium
    python docs/try_notebooks.py FOLDER
    python docs/try_notebooks.py FOLDER --only quickstart

FOLDER gets NOTEBOOK-light-1.png and so on, one for each screen, and the same in dark. Ends with 1
if a cell has failed, if a figure is not drawn, or if the page has reported an error of a script.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import TimeoutError as NotThereError
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTEBOOKS = Path(__file__).parent / "notebooks"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
MINUTE = 60_000  # ms
CELLS = "window.jupyterapp.shell.currentWidget.content.widgets"
CONNECTED = """() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel
  ?.connectionStatus === 'connected'"""
DIALOG = ".jp-Dialog-button.jp-mod-accept"  # it may ask which kernel
# whether the cell with this number is no code, or has run
DONE = f"""(number) => {{ const {{ model }} = {CELLS}[number]
  return model.type !== "code" || model.executionCount > 0 && model.executionState === "idle" }}"""
# whether the cell with this number has a figure of Plotly, and whether it is drawn
FIGURE = f"""(number) => {{ const {{ model }} = {CELLS}[number]
  return model.type === "code" && model.outputs.toJSON().some(
    (output) => output.data?.["application/vnd.plotly.v1+json"]) }}"""
DRAWN = f"""(number) => {CELLS}[number].node.querySelector(".js-plotly-plot .main-svg") !== null"""
FAILED = f"""() => {CELLS}.filter((cell) => cell.model.type === "code")
  .flatMap((cell) => cell.model.outputs.toJSON())
  .filter((output) => output.output_type === "error")
  .map((output) => `${{output.ename}}: ${{output.evalue}}`)"""


def main() -> int:
    """Try the notebooks; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description="Run the notebooks in JupyterLab in a browser.")
    parser.add_argument("folder", type=Path, help="for the pictures")
    parser.add_argument("--only", help="the name of one notebook")
    parser.add_argument("--minutes", type=float, default=5, help="most that a notebook may take")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    problems = []
    with (
        tempfile.TemporaryDirectory() as work,
        lab(Path(work)) as address,
        sync_playwright() as playwright,
    ):
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
            if arguments.only in (None, notebook.stem):
                shutil.copy(notebook, work)
                page = browser.new_page(viewport={"width": 1100, "height": 1000})
                page.set_default_timeout(arguments.minutes * MINUTE)
                found = attempt(page, address, notebook.name, arguments.folder)
                problems += [f"{notebook.stem}: {each}" for each in found]
                page.close()
    print(*problems or ["no problems"], sep="\n")
    return 1 if problems else 0


def attempt(page: Any, address: str, name: str, folder: Path) -> list[str]:
    """Run one notebook and take its pictures; what went wrong."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"an error of the page: {error}"))
    # (`reset` forgets what was open before)
    page.goto(f"{address[0]}/lab/tree/{name}?token={address[1]}&reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.wait_for_function(f"() => ({CONNECTED})() || document.querySelector('{DIALOG}')")
    with suppress(NotThereError):
        page.click(DIALOG, timeout=MINUTE / 20)
    page.wait_for_function(CONNECTED)
    notebook = "window.jupyterapp.shell.currentWidget.content"
    page.evaluate(f"() => {{ {notebook}.activeCellIndex = 0; {notebook}.activate() }}")
    for number in range(page.evaluate(f"() => {CELLS}.length")):
        page.keyboard.press("Shift+Enter")
        page.wait_for_function(DONE, arg=number)
        if page.evaluate(FIGURE, number):
            try:
                page.wait_for_function(DRAWN, arg=number, timeout=MINUTE / 2)
            except NotThereError:  # JupyterLab shows nothing at all then
                problems.append(
                    f"the figure of cell {number} is not drawn: is Plotly beside JupyterLab?"
                )
    problems += page.evaluate(FAILED)
    for theme, title in THEMES.items():
        change = "window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
        page.evaluate(f"(theme) => {{ {change} }}", title)
        page.wait_for_function(
            "(dark) => document.body.dataset.jpThemeLight === String(!dark)", arg=theme == "dark"
        )
        pictures(page, folder / f"{Path(name).stem}-{theme}")
    return problems


def pictures(page: Any, stem: Path) -> None:
    """One picture for each screen of the notebook."""
    outer = "document.querySelector('.jp-WindowedPanel-outer')"
    page.evaluate(f"() => {outer}.scrollTo(0, 0)")
    for number in range(1, 30):
        page.wait_for_timeout(400)  # cells are drawn when they come into view
        page.screenshot(path=f"{stem}-{number}.png")
        at_end = page.evaluate(
            f"""() => {{ const outer = {outer}, before = outer.scrollTop
                outer.scrollBy(0, outer.clientHeight - 40)
                return outer.scrollTop === before }}"""
        )
        if at_end:
            return


@contextmanager
def lab(folder: Path) -> Iterator[tuple[str, str]]:
    """JupyterLab over a folder until the block ends: its address and token."""
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += ["--expose-app-in-browser", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    log = folder / ".lab.log"
    with log.open("w") as written:
        environment = os.environ | {"JUPYTER_TOKEN": token}
        server = subprocess.Popen(command, stderr=written, env=environment)
    try:
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)/lab", log.read_text())):
            if server.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.2)
        yield found[1], token
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
