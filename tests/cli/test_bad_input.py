"""A mistake of the user's ends in one clear line and exit code 2, and damages nothing."""

import gzip
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from metronorm.checkpoints.folder import checkpoint_paths
from metronorm.cli import main
from metronorm.clock import Clock
from metronorm.runs import open_run

from ..train.tiny import write_text

TINY = [
    "--data", "text", "--tokenizer", "char", "--cache", "cache", "--run", "runs/old",
    "--model.context", "16", "--model.layers", "1", "--model.heads", "2", "--model.width", "16",
    "--ticks", "4",
    "--batch-size", "2", "--precision", "fp32", "--allocator", "system", "--device", "cpu",
    "--checkpoint-every", "2", "--evaluate-every", "2", "--evaluate-tokens", "64",
]  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text and a finished run."""
    folder = tmp_path_factory.mktemp("workplace")
    write_text(folder / "text")
    (folder / "latin.txt").write_bytes(b"plain\nna" + "ïve".encode("latin-1"))
    (folder / "short.txt").write_text("too short\n")
    (folder / "empty.txt").write_text("")
    (folder / "no text").mkdir()
    (folder / "rows.jsonl").write_text('{"id": 1, "body": "text"}\n' * 9)
    packed = gzip.compress(b'{"text": "a row"}\n' * 99)
    (folder / "torn.jsonl.gz").write_bytes(packed[:-20])
    (folder / "mixed.csv").write_bytes(b"text\nna\xefve\n")
    (folder / "folder" / "run.json").mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["train", *TINY]) == 0
    finally:
        os.chdir(before)
    return folder


def content(folder: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


CASES = {
    "a run below a file": (["train", "--run", "latin.txt/run"], "train: a run needs a directory"),
    "evaluate, no run": (["evaluate", "nowhere"], "evaluate: an evaluation needs a run (a dir"),
    "evaluate, a folder": (["evaluate", "text"], "got text, which is none of these"),
    "an empty prompt": (["sample", "runs/old", "--prompt-file", "empty.txt"], "hold a prompt; got"),
    "no run's name": (["train", "--run", ""], "train: --run needs a path; got ''; try: '.' for"),
    "no run's name, =": (["train", "--run="], "train: --run needs a path; got ''"),
    "no cache's name": (["prepare", "--cache", "", "--data", "text"], "--cache needs a path"),
    "a model's sizes": (
        ["train", "--model.heads", "3"],
        "metronorm train: heads must divide width; got heads=3, width=128; try: heads=2, or",
    ),
    "an optimizer's number": (
        ["train", "--optimizer.clip", "-5"],
        "metronorm train: clip must be at least 0 and finite; got -5.0\n",
    ),
    "one of two": (["train", "--optimizer.betas", "0.9"], "--optimizer.betas needs 2 values; got"),
    "two, one no number": (
        ["train", "--optimizer.betas", "0.9", "x"],
        "--optimizer.betas must be a number; got '0.9, x'",
    ),
    "a prompt like an option": (
        ["sample", "runs/old", "--prompt", "-a"],
        "--prompt needs a value; got none; try: --prompt=-a",
    ),
    "an option for a prompt": (
        ["sample", "runs/old", "--prompt", "--tokens", "5"],
        "--prompt needs a value; got none; try: metronorm sample --help",
    ),
    "no such command": (
        ["trian"],
        "metronorm: the command must be one of train, finetune, tune, evaluate, sample, ",
    ),
    "a command near": (["trian"], "got 'trian'; try: metronorm train\n"),
    "a command cut short": (["diag", "runs/old"], "got 'diag'; try: metronorm diagnose\n"),
    "no command near": (["gif"], "got 'gif'; try: metronorm --help\n"),
    "an option for a command": (["--run", "x"], "got '--run'; try: metronorm --help\n"),
    "watch nothing": (["watch"], "watch needs a run"),
    "watch no run": (["watch", "text"], "text, which has none"),
    "diagnose no run": (["diagnose", "text"], "text, which has none"),
    "compare no run": (["compare", "text", "runs/old"], "text, which has none"),
    "compare too few ticks": (["compare", "runs/old", "runs/old"], "ticks"),
    "seal nothing": (["seal"], "seal needs a run"),
    "seal no run": (["seal", "text"], "text, which has none"),
    "import nothing there": (["import", "missing", "runs/new"], "missing"),
    "import what is no tracker's": (["import", "latin.txt", "runs/new"], "latin.txt"),
    "export no run": (["export", "text", "ticks.csv"], "text, which has none"),
    "a folder as run.json": (["show", "folder"], "run.json must be readable"),
    "export over a file": (["export", "runs/old", "latin.txt", "--format", "csv"], "latin.txt"),
    "export the model of no run": (
        ["export", "text", "new", "--format", "huggingface"],
        "text, which has none",
    ),
    "no such option": (["train", "--tikcs", "3"], "there is no option --tikcs; try: --ticks"),
    "no such option, another near": (
        ["train", "--dropout", "0.1"],
        "there is no option --dropout; try: --model.dropout",
    ),
    "no such option, several near": (
        ["train", "--model", "gpt2"],
        "there is no option --model; try: --model.bias or --model.context or --model.dropout\n",
    ),
    "no such option, none near": (
        ["show", "runs/old", "--quickly"],
        "there is no option --quickly; try: metronorm show --help\n",
    ),
    "an option of another command": (
        ["sample", "runs/old", "--token", "3"],
        "there is no option --token; try: --tokens\n",
    ),
    "no such flag": (["show", "runs/old", "--no-chart"], "try: --no-charts\n"),
    "no such argument": (["train", "many"], "train takes no such argument; got many"),
    "no value": (["train", "--ticks"], "--ticks needs a value; got none"),
    "no choice": (
        ["train", "--precision", "fp99"],
        "--precision must be one of auto, fp32, bf16; got 'fp99'",
    ),
    "a choice near": (
        ["train", "--precision", "BF-16"],
        "--precision must be one of auto, fp32, bf16; got 'BF-16'; try: bf16\n",
    ),
    "a choice cut short": (
        ["train", "--optimizer.name", "muon"],
        "got 'muon'; try: ticks_muon\n",
    ),
    "a choice of export": (
        ["export", "runs/old", "x", "--format", "tensor"],
        "got 'tensor'; try: tensorboard\n",
    ),
    "a preset near": (["train", "--preset", "gpt-2"], "got 'gpt-2'; try: gpt2\n"),
    "a preset of prepare": (["prepare", "--preset", "smal"], "got 'smal'; try: small\n"),
    "no whole number": (["train", "--ticks", "1e3"], "whole number; got '1e3'; try: 1000"),
    "half a number": (["train", "--seed=1.5"], "--seed must be a whole number; got '1.5'"),
    "no number": (
        ["train", "--optimizer.learning-rate", "many"],
        "--optimizer.learning-rate must be a number; got 'many'",
    ),
    "no number, not None": (
        ["sample", "runs/old", "--top-k", "many"],
        "--top-k must be a whole number or None; got 'many'",
    ),
    "sample nothing": (["sample"], "sample needs RUN; got none"),
    "compare one": (["compare", "runs/old"], "compare needs B; got none"),
    "no such preset": (["train", "--preset", "huge"], "preset must be one of quick, small, gpt2"),
    "no such file": (["train", "--data", "missing.txt"], "missing.txt', which matches nothing"),
    "no file matches": (["train", "--data", "*.none"], "*.none'"),
    "no source": (["train", "--data", "--ticks", "3"], "--data needs a file, a folder or a glob"),
    "no source at the end": (["prepare", "--data", "text", "--data"], "--data needs a file"),
    "no validation data": (
        ["train", "--data", "text", "--validation-data", "--ticks", "3"],
        "--validation-data needs a file",
    ),
    "not UTF-8": (["train", "--data", "latin.txt"], "latin.txt"),
    "where it is not UTF-8": (["prepare", "--data", "latin.txt"], "line 2"),
    "a column that is not there": (
        ["train", "--data", "rows.jsonl"],
        "must have the column 'text'; got the columns id, body in ",
    ),
    "a torn file": (["prepare", "--data", "torn.jsonl.gz"], "must be whole; got "),
    "rows in another encoding": (
        ["prepare", "--data", "mixed.csv"],
        "rows: not UTF-8: 1 (as line 2 of ",
    ),
    "nothing to train on": (
        ["prepare", "--data", "text", "--validation-data", "text"],
        "there must be text to train on beside what is held out; got none, as ",
    ),
    "a weight too few": (
        ["train", "--data", "text", "latin.txt", "--weights", "1"],
        "a weight for every source of data; got 1 for 2",
    ),
    "a weight of nothing": (
        ["train", "--data", "text", "latin.txt", "--weights", "1", "0"],
        "weights must be above 0",
    ),
    "no weight": (
        ["train", "--data", "text", "latin.txt", "--weights", "1", "x"],
        "--weights must be a number; got '1, x'",
    ),
    "no tokenizer": (
        ["prepare", "--data", "text", "--tokenizer-file", "latin.txt"],
        "a tokenizer must be a readable tokenizer.json",
    ),
    "empty text": (["train", "--data", "empty.txt"], "empty"),
    "a folder without text": (["train", "--data", "no text"], "no text"),
    "shorter than a context": (["train", "--data", "short.txt"], "at least one context"),
    "heads": (["train", "--model.heads", "5"], "heads must divide width; got heads=5"),
    "key heads": (["train", "--model.kv-heads", "3"], "kv_heads must divide heads"),
    "no layers": (["train", "--model.layers", "0"], "layers must be a whole number of at least 1"),
    "an evaluation of less than a context": (
        ["train", "--evaluate-tokens", "5"],
        "evaluate_tokens must be 0 (all) or at least one context",
    ),
    "no ticks": (["train", "--ticks", "0"], "ticks must be at least 1"),
    "learning rate": (
        ["train", "--optimizer.learning-rate", "-1"],
        "learning_rate must be above 0",
    ),
    "an infinite learning rate": (
        ["train", "--optimizer.learning-rate", "inf"],
        "learning_rate must be above 0 and finite; got inf",
    ),
    "an infinite clip": (
        ["train", "--optimizer.clip", "inf"],
        "clip must be at least 0 and finite; got inf",
    ),
    "a weight decay that is no number": (
        ["train", "--optimizer.weight-decay", "nan"],
        "weight_decay must be at least 0 and finite; got nan",
    ),
    "more ticks than are counted": (
        ["train", "--ticks", "9223372036854775808"],
        "ticks must be below 2**63; got 9223372036854775808",
    ),
    "a training's seed of more than 64 bits": (
        ["train", "--seed", "99999999999999999999"],
        "seed must be a whole number of 64 bits; got 99999999999999999999",
    ),
    "an absurd size": (["train", "--model.width", "4294967296"], "width must be below 2**31"),
    "a model that does not fit": (
        ["train", *TINY, "--run", "runs/new", "--model.width", "2000000"],
        "GiB free; try: a smaller --model.width, --model.layers or --model.context",
    ),
    "a device that computes nothing": (
        ["train", *TINY, "--run", "runs/new", "--device", "meta"],
        "device must be one of this machine's; got 'meta'",
    ),
    "too little memory": (
        ["train", *TINY, "--run", "runs/new", "--batch-size", "100000000"],
        "tokens needs at least",
    ),
    "device": (["train", *TINY, "--run", "runs/new", "--device", "quantum"], "'quantum'"),
    "another run": (["train", *TINY], "runs/old, which holds the run 'old'"),
    "resume nothing": (["train", "--resume", "runs/none"], "runs/none, which does not exist"),
    "resume and run": (
        ["train", "--resume", "runs/old", "--run", "runs/x"],
        "--run names a new run and --resume an old one",
    ),
    "resume and preset": (
        ["train", "--resume", "runs/old", "--preset", "small"],
        "--preset is for a new run",
    ),
    "resume another model": (
        ["train", "--resume", "runs/old", "--model.layers", "3", "--seed", "9"],
        "model.layers: 1 in the run, 3 asked for; seed: 0 in the run, 9 asked for",
    ),
    "show nothing": (["show"], "show needs a run"),
    "show no run": (["show", "text"], "text, which has none"),
    "sample no run": (["sample", "runs/none"], "runs/none, which does not exist"),
    "a prompt of other characters": (["sample", "runs/old", "--prompt", "€"], "'€' (U+20AC)"),
    "top-p": (["sample", "runs/old", "--top-p", "2"], "top_p must be above 0 and at most 1"),
    "a seed of more than 64 bits": (
        ["sample", "runs/old", "--seed", "99999999999999999999"],
        "seed must be a whole number of 64 bits; got 99999999999999999999",
    ),
    "temperature": (["sample", "runs/old", "--temperature", "-1"], "temperature"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(
    case: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, expected = CASES[case]
    monkeypatch.chdir(workplace)
    before = content(workplace / "runs")
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("metronorm")
    assert expected in err
    assert content(workplace / "runs") == before
    assert [path.name for path in (workplace / "runs").iterdir()] == ["old"]


def test_a_damaged_checkpoint_is_skipped(
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").symlink_to(workplace / "text")
    assert main(["train", *TINY]) == 0
    folder = tmp_path / "runs" / "old" / "checkpoints"
    for path in checkpoint_paths(folder):
        (path / "model.safetensors").write_bytes(b"\0" * 10)
    capsys.readouterr()
    assert main(["train", "--resume", "runs/old"]) == 2
    assert "with only damaged ones: tick-00000004, tick-00000002" in capsys.readouterr().err
    assert main(["sample", "runs/old"]) == 2
    assert "only damaged ones" in capsys.readouterr().err


def test_foreign_folders_in_a_run_are_ignored(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(workplace / "runs" / "old", run)
    for kind in ("ticks", "events", "resources"):
        (run / kind / "attempt=0.bak" / "rank=0").mkdir(parents=True)
        (run / kind / "attempt=0" / "rank=x").mkdir()
    for command in ("show", "diagnose", "watch", "seal"):
        assert main([command, str(run)]) == 0, capsys.readouterr().err
    assert open_run(run).attempts == [0]
    with Clock(run, resume=True, progress=False) as clock:
        assert clock.attempt == 1


@pytest.mark.parametrize("footer", [False, True])
def test_a_damaged_part_is_reported_and_set_aside(
    footer: bool, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(workplace / "runs" / "old", run)
    (part,) = run.glob("ticks/*/*/part-*.parquet")
    data = bytearray(part.read_bytes())
    at = len(data) - 400 if footer else 4
    data[at : at + 200] = bytes(200)
    part.write_bytes(data)
    target = tmp_path / "ticks.csv"
    code = main(["export", str(run), str(target)])
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    if footer:  # what cannot be opened at all is left out
        assert code == 0
        assert "a damaged part was left out" in err
        assert main(["diagnose", str(run)]) == 0
        assert "a damaged part was left out" in capsys.readouterr().err
    else:
        assert code == 2
        assert "a run's files must be readable" in err
        assert "metronorm seal" in err
        assert not target.exists()
    assert main(["seal", str(run)]) == 0
    assert (part.parent / f"_{part.name}.broken").read_bytes() == data
    assert main(["export", str(run), str(target), "--overwrite"]) == 0
