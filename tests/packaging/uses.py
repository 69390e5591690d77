"""A use of every extra, as a user would: commands of Metronorm, and code of Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RECORD = """
from metronorm.clock import Clock
with Clock("runs/first", progress=False) as clock:
    for value in clock.ticks([3.0, 2.0]):
        clock.log(loss=value)
"""

TORCH = """
import torch
from metronorm.norm import LayerNorm, backend
from metronorm.optim import Ticks
norm = LayerNorm(8)
optimizer = Ticks(norm.parameters(), lr=0.1)
norm(torch.randn(4, 8)).square().sum().backward()
optimizer.step()
assert backend() != "torch", backend()
"""

ANALYSIS = """
from metronorm.runs import open_run
ticks = open_run("runs/first").ticks()
assert ticks.df().loss.tolist() == ticks.arrow()["loss"].to_pylist() == [3.0, 2.0]
"""

NOTEBOOK = """
import ipykernel, nbformat
from metronorm.board import plot
from metronorm.runs import open_run
assert "<table" in open_run("runs/first")._repr_html_()
assert plot("runs/first", "loss").data
"""

BOARD = """
import asyncio, threading, urllib.request
from pathlib import Path
from metronorm.board.guard import Login
from metronorm.board.server import listen, make_server
address, _ = listen("127.0.0.1", 0)
server = make_server((Path("runs"),), address, Login("a token that is only for tests"))
thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[address.socket]),))
thread.start()
page = urllib.request.urlopen(f"{address.url}/").read().decode()
server.should_exit = True
thread.join()
assert "uplot" in page.lower(), page
"""

GPU = """
import pynvml
from metronorm.doctor.machine import gpus
assert isinstance(gpus(), list | str)
"""

KERAS = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy
from metronorm.keras import LayerNormalization
rows = numpy.arange(8.0, dtype="float32").reshape(2, 4)
values = keras.ops.convert_to_numpy(LayerNormalization()(rows))
assert abs(values.mean()) < 1e-6
"""

PROMETHEUS = """
import urllib.request
from metronorm.clock import Clock
from metronorm.integrations.prometheus import serve
with Clock("runs/served", progress=False) as clock, serve(clock, port=0) as endpoint:
    for value in clock.ticks([3.0, 2.0]):
        clock.log(loss=value)
    page = urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics").read().decode()
assert "metronorm_" in page, page
"""

OPENTELEMETRY = """
from metronorm.clock import Clock
from metronorm.integrations.opentelemetry import instrument
with Clock("runs/observed", progress=False) as clock, instrument(clock):
    for value in clock.ticks([3.0, 2.0]):
        clock.log(loss=value)
"""

TINY = (
    "--data text --tokenizer bpe --vocab-size 300 --cache cache --model.context 16 "
    "--model.layers 1 --model.heads 2 --model.width 16 --ticks 2 --batch-size 2 --precision fp32 "
    "--allocator system --evaluate-tokens 64"
)
_TRAIN = f"metronorm train {TINY} --run runs/tiny"

# by extra, one after the other
TEXT = """
from pathlib import Path
from backports import zstd
from metronorm.data import TextConfig, prepare
rows = "".join(f'{{"text": "Row {n} of all. {"A tick. " * 20}"}}\\n' for n in range(60))
Path("rows.jsonl.zst").write_bytes(zstd.compress(rows.encode()))
config = TextConfig(data=("rows.jsonl.zst",), near_duplicates=0.999, cache=Path("cache"))
ledger = prepare(config).meta.ledger
assert ledger.read.documents == 60, ledger
"""

SOUND = """
import wave
from metronorm.data import log_mel, read_sound
with wave.open("tick.wav", "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", ""))
    file.writeframes(bytes(16000))
samples, rate = read_sound("tick.wav", rate=16000)
assert log_mel(samples, rate).shape == (100, 80)
"""

USES: dict[str, tuple[str, ...]] = {
    "torch": (TORCH,),
    "train": (_TRAIN, "metronorm sample runs/tiny --tokens 5"),
    "text": (TEXT,),
    "sound": (SOUND,),
    "finetune": (
        _TRAIN,
        "metronorm export runs/tiny model --format huggingface",
        "metronorm finetune model text --task text --way full --context 16 --ticks 2 "
        "--batch-size 2 --precision fp32 --allocator system --run runs/tuned --save nothing",
    ),
    "tune": (f"metronorm tune {TINY} --budget 2runs --seeds 1 --study studies/tiny",),
    "board": (RECORD, BOARD),
    "analysis": (RECORD, ANALYSIS),
    "notebook": (RECORD, NOTEBOOK),
    "gpu": (GPU,),
    "keras": (KERAS,),
    "tensorboard": (
        RECORD,
        "metronorm export runs/first events",
        "metronorm import events runs/again",
        "metronorm show runs/again",
    ),
    "prometheus": (PROMETHEUS,),
    "opentelemetry": (OPENTELEMETRY,),
}


def write_text(folder: Path) -> None:
    """Text for the uses that train."""
    (folder / "text").mkdir(exist_ok=True)
    for number in range(10):
        words = [f"{word} of {number}" for word in ("a tick", "a beat", "the window", "a run")]
        (folder / "text" / f"{number}.txt").write_text("\n".join(words * 20) + "\n")


def command(use: str) -> list[str]:
    """The words of a use; the first is a program of the environment."""
    return use.split() if use.startswith("metronorm ") else ["python", "-c", use]
