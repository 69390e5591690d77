"""`clock.sample`: text, pictures, audio and tables in files, bounded, and an event each."""

import io
import json
import logging
import shutil
import subprocess
import sys
import threading
import wave
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metronorm.clock import Clock, sample_values, sample_writer
from metronorm.errors import ConfigError
from metronorm.runs import Sample, open_run

from ..full_disk import fill, small_disk
from . import records
from .fake_device import FakeTorch, Place
from .test_fork import run_script


def new_clock(run: Path, **options: Any) -> Clock:
    return Clock(run, progress=False, stall=None, **options)


def keep(run: Path, *values: Any, name: str = "it", rate: int | None = None) -> list[Sample]:
    """What a run has that keeps these values in one tick each."""
    with new_clock(run) as clock:
        for value in clock.ticks(values):
            clock.sample(name, value, rate=rate)
    return open_run(run).samples()


def pixels(sample: Sample) -> Any:
    with Image.open(io.BytesIO(sample.read())) as picture:
        return np.asarray(picture)


def sounds(sample: Sample) -> tuple[int, int, Any]:
    with wave.open(io.BytesIO(sample.read())) as audio:
        frames = np.frombuffer(audio.readframes(audio.getnframes()), "<i2")
        return audio.getframerate(), audio.getnchannels(), frames


def rows(sample: Sample) -> list[Any]:
    return [json.loads(line) for line in sample.read().splitlines()]


def sample_events(run: Path, name: str = "sample") -> list[dict[str, Any]]:
    return [event["fields"] for event in records.events(run) if event["event"] == name]


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.glob("samples/**/*.*"))


# --- what is kept -------------------------------------------------------------------------------


def test_a_file_and_an_event_for_each_sample(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (sample,) = keep(run, "to be\r\nor not €", name="prose/1")
    path = "samples/attempt=0/rank=0/tick=1/prose_1.txt"
    assert sample.path == run / path
    assert sample.read() == "to be\r\nor not €".encode()
    assert (sample.name, sample.kind, sample.tick, sample.attempt, sample.rank) == (
        "prose/1",
        "text",
        1,
        0,
        0,
    )
    assert sample_events(run) == [
        {
            "name": "prose/1",
            "kind": "text",
            "path": path,
            "bytes": 17,
            "text": "to be\r\nor not €",
        }
    ]


GREY = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (GREY, GREY),
        (GREY[:, :, None], GREY),
        (COLOR, COLOR),
        (COLOR[::-1, ::2], COLOR[::-1, ::2]),
        (GREY > 99, np.where(GREY > 99, 255, 0)),
        (COLOR / 255, COLOR),
        ((COLOR / 255).astype(np.float16), COLOR),
        (torch.tensor(COLOR), COLOR),
        (torch.tensor(COLOR).permute(1, 0, 2), COLOR.transpose(1, 0, 2)),
        (torch.tensor(GREY / 255, requires_grad=True), GREY),
        (torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), [[0, 255]]),
        (torch.tensor([[0.0, 1.0]]).to(torch.float8_e4m3fn), [[0, 255]]),
        (Image.fromarray(COLOR), COLOR),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pictures(tmp_path: Path, picture: Any, expected: Any) -> None:
    (sample,) = keep(tmp_path / "run", picture)
    assert sample.kind == "picture"
    assert np.array_equal(pixels(sample), expected)


def test_pictures_of_jax(tmp_path: Path) -> None:
    """In a process of its own: once JAX is loaded, no other test may fork."""
    if find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    np.save(tmp_path / "color.npy", COLOR)
    code = """
import sys
from jax import numpy as jnp
import numpy as np
from metronorm.clock import Clock
color = jnp.asarray(np.load(sys.argv[1] + "/color.npy"))
with Clock(sys.argv[1] + "/run", progress=False, stall=None) as clock:
    for _ in clock.ticks(range(1)):
        clock.sample("picture", color)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    (sample,) = open_run(tmp_path / "run").samples()
    assert np.array_equal(pixels(sample), COLOR)


@pytest.mark.parametrize(
    ("audio", "channels", "expected"),
    [
        (np.array([0, 32767, -32768], np.int16), 1, [0, 32767, -32768]),
        (np.array([0.0, 1.0, -1.0, 0.5]), 1, [0, 32767, -32767, 16384]),
        (np.array([[0, 1], [2, 3]], np.int16), 2, [0, 1, 2, 3]),
        (torch.tensor([[0.0], [1.0]]), 1, [0, 32767]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_audio(tmp_path: Path, audio: Any, channels: int, expected: list[int]) -> None:
    (sample,) = keep(tmp_path / "run", audio, rate=8000)
    assert sample.kind == "audio"
    rate, found, frames = sounds(sample)
    assert (rate, found, frames.tolist()) == (8000, channels, expected)


def test_tables(tmp_path: Path) -> None:
    by_row, by_column, empty = keep(
        tmp_path / "run",
        [{"word": "be", "p": float("nan")}, {"word": "é", "at": [1, 2], "p": np.float32(0.5)}],
        {"tick": torch.arange(2), "loss": np.array([0.5, 1.5]), "word": ["a", "b"]},
        [],
    )
    assert rows(by_row) == [{"word": "be", "p": "nan"}, {"word": "é", "at": [1, 2], "p": 0.5}]
    assert rows(by_column) == [
        {"tick": 0, "loss": 0.5, "word": "a"},
        {"tick": 1, "loss": 1.5, "word": "b"},
    ]
    assert rows(empty) == []
    assert by_row.path is not None
    assert by_row.path.suffix == ".jsonl"


def test_a_value_may_change_after_the_call(tmp_path: Path) -> None:
    array, tensor, row = np.zeros((2, 2)), torch.zeros(2, 2), {"a": torch.zeros(())}
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            for value in (array, tensor, [row], {"a": row["a"][None]}):
                clock.sample("it", value)
            array += 1
            tensor += 1
            row["a"] += 1
            row["b"] = tensor
    one, two, three, four = open_run(tmp_path / "run").samples()
    assert not pixels(one).any()
    assert not pixels(two).any()
    assert rows(three) == rows(four) == [{"a": 0.0}]


def test_names_that_are_there_already(tmp_path: Path) -> None:
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            for name in ("a", "a-2", "a", "A", "a", "..", "b/c", "b_c", "\ud800"):
                clock.sample(name, name)
            clock.sample("a", GREY)
    found = {
        sample.path.name: sample.read().decode()
        for sample in open_run(tmp_path / "run").samples()
        if sample.path and sample.kind == "text"
    }
    assert found == {
        "a.txt": "a",
        "a-2.txt": "a-2",
        "a-3.txt": "a",
        "A-4.txt": "A",
        "a-5.txt": "a",
        "sample.txt": "..",
        "_.txt": "?",
        "b_c.txt": "b/c",
        "b_c-2.txt": "b_c",
    }
    assert len(files(tmp_path / "run")) == 10


def test_before_and_between_ticks_and_from_other_threads(tmp_path: Path) -> None:
    with new_clock(tmp_path / "run") as clock:
        clock.sample("before", "")
        list(clock.ticks(range(2)))
        thread = threading.Thread(target=clock.sample, args=("after", ""))
        thread.start()
        thread.join()
    assert [(one.name, one.tick) for one in open_run(tmp_path / "run").samples()] == [
        ("before", 0),
        ("after", 2),
    ]
    assert records.events(tmp_path / "run")[-1]["event"] == "end"


# --- an accelerator -----------------------------------------------------------------------------


class OnDevice:
    """A picture on an accelerator that finishes when told."""

    def __init__(self, work: FakeTorch, picture: Any) -> None:
        self._work, self._picture = work, picture
        self.shape, self.dtype, self.nbytes = picture.shape, picture.dtype, picture.nbytes
        self.device = Place("cuda", 0)

    def detach(self) -> "OnDevice":
        return self

    def to(self, where: str, *, non_blocking: bool) -> Any:
        assert (where, non_blocking) == ("cpu", True)
        self._work.give()
        return SimpleNamespace(dtype=self.dtype, numpy=lambda: self._picture)


class Busy(FakeTorch):
    """Finishes when told; the main thread does not wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def wait(self, serial: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert self.told.wait(60)
        self.done = serial


def test_an_accelerator_is_waited_for_on_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Busy()
    work.is_initialized = False
    monkeypatch.setitem(sys.modules, "torch", work)  # type: ignore[arg-type]
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            clock.sample("it", OnDevice(work, GREY))
        assert files(tmp_path / "run") == []
        work.told.set()
    (sample,) = open_run(tmp_path / "run").samples()
    assert np.array_equal(pixels(sample), GREY)


def test_an_accelerator_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work = FakeTorch()
    work.is_initialized = False
    monkeypatch.setitem(sys.modules, "torch", work)  # type: ignore[arg-type]
    work.break_down()
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(3)):
            clock.sample("it", OnDevice(work, GREY))
    assert clock.dropped == 3
    (text,) = caplog.messages
    assert "it cannot be made a file (RuntimeError: device-side assert)" in text


# --- bounds -------------------------------------------------------------------------------------


def test_a_picture_that_is_too_large(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    large = np.broadcast_to(np.uint8(1), (2049, 2048))
    assert keep(tmp_path / "run", *[large] * 5) == []
    assert [event["samples"] for event in sample_events(tmp_path / "run", "samples dropped")] == [
        1,
        2,
        4,
        5,
    ]
    (text,) = caplog.messages
    assert "the sample 'it' of tick 1 is not kept: a picture has at most 4 MiB" in text
    assert files(tmp_path / "run") == []


def test_what_is_too_long_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sample_values, "MOST_BYTES", 100)
    monkeypatch.setattr(sample_values, "_MOST_ROWS", 20)
    run = tmp_path / "run"
    with new_clock(run) as clock:
        for _ in clock.ticks(range(2)):
            clock.sample("text", "é" * 51 + "x" * 1_000)
            clock.sample("short", "x" * 100)
            clock.sample("surrogates", "\ud800" * 100)
            clock.sample("audio", np.zeros((30, 2), np.int16), rate=10)
            clock.sample("lines", [{"number": 7}] * 10)
            clock.sample("rows", [{}] * 25)
    by_name = {sample.name: sample for sample in open_run(run).samples()}
    assert by_name["text"].read().decode() == (
        "é" * 50 + "\n[1,001 more characters were left out]\n"
    )
    assert by_name["short"].read() == b"x" * 100
    assert by_name["surrogates"].read() == b"?" * 100
    assert len(sounds(by_name["audio"])[2]) == 2 * 25
    assert len(rows(by_name["lines"])) == 7
    assert len(rows(by_name["rows"])) == 20
    left_out = {event["name"]: event.get("left_out") for event in sample_events(run)}
    assert left_out == {
        "text": 1_001,
        "short": None,
        "surrogates": None,
        "audio": 5,
        "lines": 3,
        "rows": 5,
    }
    assert len(caplog.messages) == 3, "one for each kind"
    assert "the text 'text' of tick 1 was cut: 1,001 characters" in caplog.text
    assert clock.dropped == 0


@pytest.mark.parametrize(
    ("bound", "value", "reason"),
    [
        ("MOST_SAMPLES", 3, "a run keeps at most 3 samples"),
        ("MOST_BYTES", 3 * 1024, "a run keeps at most 3 KiB of samples"),
    ],
)
def test_a_run_keeps_so_many(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bound: str,
    value: int,
    reason: str,
) -> None:
    monkeypatch.setattr(sample_writer, bound, value)
    run = tmp_path / "run"
    keep(run, "x" * 1024, "x" * 1024)
    with new_clock(run, resume=True) as clock:  # earlier attempts count
        for _ in clock.ticks(range(3), initial=2):
            clock.sample("more", "x" * 1024)
    assert len(files(run)) == 3
    assert clock.dropped == 2
    (text,) = caplog.messages
    assert reason in text


def test_more_than_may_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sample_writer, "MOST_WAITING_BYTES", 1000)
    assert keep(tmp_path / "run", "", "") == []
    assert len(caplog.messages) == 1
    assert "of samples wait for the disk" in caplog.text


# --- what can go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outside", "expected"),
    [
        (np.full((2, 2), np.nan), 4, [[0, 0], [0, 0]]),
        (np.array([[-1.0, np.inf], [-np.inf, 0.2]]), 3, [[0, 255], [0, 51]]),
        (torch.tensor([[1e30, 0.2]]), 1, [[255, 51]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_floats_out_of_range(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    value: Any,
    outside: int,
    expected: list[list[int]],
) -> None:
    first, _ = keep(tmp_path / "run", value, value)
    assert pixels(first).tolist() == expected
    assert [event["outside"] for event in sample_events(tmp_path / "run")] == [outside] * 2
    (text,) = caplog.messages
    assert f"the picture 'it' of tick 1 has {outside} values that are NaN or out of range" in text


def test_audio_out_of_range(tmp_path: Path) -> None:
    (sample,) = keep(tmp_path / "run", np.array([2.0, np.nan, -np.inf, -0.5]), rate=8)
    assert sounds(sample)[2].tolist() == [32767, 0, -32767, -16384]


class Wordless:
    """An object whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


def test_cells_that_json_does_not_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    endless: list[Any] = []
    endless.append(endless)
    (sample,) = keep(
        tmp_path / "run",
        [{"path": Path("a"), ("a", 1): 2}],
        [{"a": Wordless()}],
        [{"a": endless}],
    )
    assert rows(sample) == [{"path": "a", "('a', 1)": 2}]
    assert sample_events(tmp_path / "run", "samples dropped")[-1]["samples"] == 2
    assert len(caplog.messages) == 1
    assert "it cannot be made a file (RuntimeError: no words)" in caplog.text


@pytest.mark.parametrize(
    ("value", "rate", "message"),
    [
        (3.0, None, "got a float; try: clock.log for numbers"),
        (b"bytes", None, "got a bytes"),
        (None, None, "got a NoneType"),
        ([1.0, 2.0], None, "got a list"),
        ([{"a": 1}, None], None, "got a list"),
        ({"a": [1], "b": [1, 2]}, None, "same length; got a: 1, b: 2"),
        ({"a": "text"}, None, "got a: 4"),
        ({"a": 1}, None, "got a: a int"),
        (np.zeros(5), None, r"shape \(5,\) and dtype float64; .*rate= if it is audio"),
        (torch.zeros(3, 8, 8), None, r"shape \(3, 8, 8\) and dtype float32; try: .*permute"),
        (np.zeros((2, 0, 3)), None, "a picture is"),
        (np.zeros((2, 2), np.int64), None, "dtype int64"),
        (np.zeros((2, 2), complex), None, "dtype complex128"),
        (np.array([["a"]]), None, "a picture is"),
        (np.zeros((1, 5)), 8000, "audio is .* channels come first"),
        (np.zeros(5, np.uint8), 8000, "audio is"),
        ("text", 8000, "audio is .* got a str"),
        (np.zeros(5), 0, "from 1 to 1,000,000; got 0"),
        (np.zeros(5), 0.5, "got 0.5"),
        (np.zeros(5), "fast", "got 'fast'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_sample(tmp_path: Path, value: Any, rate: Any, message: str) -> None:
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            with pytest.raises(ConfigError, match=message):
                clock.sample("it", value, rate=rate)
    assert clock.dropped == 0


def test_a_name_is_text(tmp_path: Path) -> None:
    with (
        new_clock(tmp_path / "run") as clock,
        pytest.raises(ConfigError, match="the name of a sample is text; got a int"),
    ):
        clock.sample(3, "")  # type: ignore[arg-type]


def test_a_clock_that_is_not_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = new_clock(tmp_path / "run")
    with pytest.raises(ConfigError, match="must be entered"):
        clock.sample("it", "")
    with clock:
        pass
    for _ in range(2):
        clock.sample("it", "")
    assert caplog.messages == ["a clock is closed: what is given to it now is not recorded"]
    assert not (tmp_path / "run" / "samples").exists()


FORK = """
import os, sys
from importlib.util import find_spec
from pathlib import Path
from metronorm.clock import Clock

with Clock(Path(sys.argv[1]), progress=False) as clock:
    for number in clock.ticks(range(3)):
        clock.sample("of the parent", str(number))
        if not os.fork():
            clock.sample("of the child", str(number))
            os._exit(0)
        assert os.wait()[1] == 0
"""


def test_a_child_of_a_fork_keeps_nothing(tmp_path: Path) -> None:
    run_script(FORK, tmp_path / "run")
    samples = open_run(tmp_path / "run").samples()
    assert [(one.name, one.read()) for one in samples] == [
        ("of the parent", b"0"),
        ("of the parent", b"1"),
        ("of the parent", b"2"),
    ]
    assert len(files(tmp_path / "run")) == 3


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = disk / "run"
        with new_clock(run) as clock:
            ballast = fill(disk)
            for _ in clock.ticks(range(5)):
                clock.sample("it", "x" * 100_000)
            assert clock._recorder is not None
            clock._recorder.close_samples()
            ballast.unlink()
        assert clock.dropped == 5
        assert len(open_run(run).ticks().rows()) == 5
        assert sample_events(run, "samples dropped")[-1]["samples"] == 5
        assert [path for path in run.glob("samples/**/*") if path.is_file()] == []
    (text,) = caplog.messages
    assert "No space left on device" in text


def test_a_run_that_another_has_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        with new_clock(run) as clock:
            for number in clock.ticks(range(2)):
                if number:
                    run.rename(tmp_path / "moved")
                    keep(run, "of the other")
                clock.sample("it", "of the first")
        assert clock.dropped >= 1
        shutil.rmtree(tmp_path / "moved")
    assert files(run) == ["samples/attempt=0/rank=0/tick=1/it.txt"]
    assert open_run(run).samples()[0].read() == b"of the other"
    assert "its run is not there any more" in caplog.text


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    with new_clock(tmp_path / "run") as clock:
        (tmp_path / "run" / "samples").write_text("")
        clock.sample("it", "")
    assert clock.dropped == 1


def test_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sample_writer, "PATIENCE_SECONDS", 0.01)
    answers = threading.Event()

    def hang() -> sample_values.Encoded:
        answers.wait()
        return sample_values.Encoded(b"")

    slow = sample_values.Taken("text", 0, hang)
    monkeypatch.setattr(sample_writer, "take", lambda value, rate: slow)
    try:
        with new_clock(tmp_path / "run") as clock:
            for _ in clock.ticks(range(3)):
                clock.sample("it", "")
        assert clock.dropped == 3
        assert "the disk does not answer" in caplog.text
        assert sample_events(tmp_path / "run", "samples dropped")[-1]["samples"] == 3
    finally:
        answers.set()
