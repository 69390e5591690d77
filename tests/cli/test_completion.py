"""TAB in real shells."""

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.cli import COMMANDS, main
from metronorm.cli._option_list import options_by_command
from metronorm.cli._shells import script

SECONDS = 30  # without a sign of the shell


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, by the name that the shell looks for."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "metronorm").write_text(script("bash"))
    (folder / "_metronorm").write_text(script("zsh"))
    (folder / "metronorm.fish").write_text(script("fish"))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run in it."""
    (tmp_path / "runs" / "shakespeare").mkdir(parents=True)
    (tmp_path / "notes one.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell}")


def type_lines(shell: list[str], *setup: str) -> None:
    """Type `LINES` into a shell in a terminal; each must show its text.

    Args:
        shell: its command line.
        setup: lines to enter before.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(PS1="ready> ", PROMPT="ready> ", TERM="dumb", HISTFILE="/dev/null")
        os.execvp(shell[0], shell)
    try:
        read_until(terminal, "ready> ")
        for line in setup:
            os.write(terminal, f"{line}\n".encode())
        for keys, shown in LINES:
            os.write(terminal, b"echo ne''xt\n")
            read_until(terminal, "\nnext", "ready> ")
            os.write(terminal, keys.encode())
            read_until(terminal, shown)
            os.write(terminal, b"\x15")  # Ctrl-U clears the line
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def read_until(terminal: int, *texts: str) -> None:
    """Read what a terminal shows until it has shown the texts, one after the other."""
    seen = ""
    pattern = ".*".join(map(re.escape, texts))
    while not re.search(pattern, seen, re.DOTALL):
        ready, _, _ = select.select([terminal], [], [], SECONDS)
        assert ready, f"{texts} must come; got {seen!r}"
        with contextlib.suppress(OSError):
            seen += re.sub("[\r\a]", "", os.read(terminal, 4096).decode(errors="replace"))


# keys, and what stands on the line then
LINES = [
    ("metronorm tr\t", "metronorm train "),
    ("metronorm train --model.ml\t", "--model.mlp"),
    ("metronorm train --optimizer.name tic\t", "ticks"),
    ("metronorm show runs/sh\t", "runs/shakespeare"),
    ("metronorm train --data no\t", r"notes\ one.txt"),
]


@needs("bash")
def test_bash(place: Path, scripts: Path) -> None:
    type_lines(["bash", "--norc", "--noprofile", "-i"], f"source {scripts}/metronorm")


@needs("zsh")
def test_zsh(place: Path, scripts: Path) -> None:
    type_lines(
        ["zsh", "-f", "-i"],
        f"fpath+=({scripts})",
        f"autoload -Uz compinit; compinit -u -d {place}/dump",
    )


def fish(scripts: Path, line: str) -> list[str]:
    """What fish offers for a line."""
    commands = f"source {scripts}/metronorm.fish; complete -C {line!r}"
    done = subprocess.run(
        ["fish", "-N", "-c", commands], capture_output=True, text=True, check=True
    )
    return [each.partition("\t")[0] for each in done.stdout.splitlines()]


@needs("fish")
def test_fish(place: Path, scripts: Path) -> None:
    assert fish(scripts, "metronorm tr") == ["train"]
    assert {"--model.norm", "--model.no-bias"} <= {*fish(scripts, "metronorm train --model.no")}
    assert "ticks_muon" in fish(scripts, "metronorm train --optimizer.name tic")
    assert fish(scripts, "metronorm show runs/sh") == ["runs/shakespeare/"]


@needs("bash")
def test_the_script_runs_nothing(place: Path, scripts: Path) -> None:
    """No program at all: so TAB is quick, whatever Metronorm needs to be loaded."""
    function = re.search(r"complete .*-F (\S+) metronorm", (scripts / "metronorm").read_text())
    assert function
    commands = (
        f"source {scripts}/metronorm; PATH=; COMP_WORDS=(metronorm export a b --format ''); "
        f"COMP_CWORD=5; {function[1]}; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", commands], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["auto", "tensorboard", "csv", "parquet", "huggingface"]
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_help_is_completed(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    page = capsys.readouterr().out.partition("╭")[2]
    shown = {
        flag
        for line in re.findall(r"^│ (--[^│]*)", page, re.MULTILINE)
        for flag in re.findall(r"(?:^|, )(--[\w.-]+)", line.partition("  ")[0])
    }
    listed = {flag for option in options_by_command()[command] for flag in option.flags}
    assert listed == shown


def test_a_list_of_options_loads_no_framework() -> None:
    code = (
        "from metronorm.cli import main; main(['completion', 'fish'])\n"
        "import sys; print('\\nloaded', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {*done.stdout.rpartition("\nloaded ")[2].split()}
    assert "metronorm" in loaded
    assert not loaded & {"torch", "tensorflow", "jax", "keras", "numpy"}


@pytest.mark.parametrize(
    ("shell", "variable", "file", "told"),
    [
        ("bash", "XDG_DATA_HOME", "bash-completion/completions/metronorm", "bash-completion"),
        ("zsh", "ZDOTDIR", ".zfunc/_metronorm", "fpath+=("),
        ("fish", "XDG_CONFIG_HOME", "fish/completions/metronorm.fish", "new shells use it"),
    ],
)
def test_install_writes_one_file_and_names_it(
    shell: str,
    variable: str,
    file: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    for _ in range(2):  # the second time it replaces what it has written
        assert main(["completion", shell, "--install"]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / file) in out
    assert told in out
    written = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert written == [tmp_path / file]
    assert "finetune" in written[0].read_text()


def test_without_variables_it_is_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_DATA_HOME", "ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell, "--install"]) == 0
    found = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert found == {
        ".local/share/bash-completion/completions/metronorm",
        ".zfunc/_metronorm",
        ".config/fish/completions/metronorm.fish",
    }


def test_a_file_of_another_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZDOTDIR", str(tmp_path))
    own = tmp_path / ".zfunc" / "_metronorm"
    own.parent.mkdir()
    own.write_text("#compdef metronorm\n# by hand\n")
    assert main(["completion", "zsh", "--install"]) == 2
    assert "only a script that was written by this command is replaced" in capsys.readouterr().err
    assert "by hand" in own.read_text()


def test_a_place_that_cannot_be_written_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert main(["completion", "bash", "--install"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must be writable" in line
    assert line.endswith("try: metronorm completion bash > FILE")
