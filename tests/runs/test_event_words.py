"""Events in plain words."""

from typing import Any

import pytest

from metronorm.runs.event_words import in_words
from metronorm.runs.events import Event

WORDS: list[tuple[str, dict[str, Any], str]] = [
    ("start", {"process": 7, "host": "a", "versions": {}}, "the attempt starts: process 7 on a"),
    ("changed", {"config": {"a.b": [1, 2]}}, "this attempt has a.b 2 (first 1)"),
    ("changed", {"name": ["x", "y"], "config": {}}, "this attempt has name y (first x)"),
    ("end", {}, "the attempt ends"),
    ("end", {"error": "ValueError", "message": "a\nb"}, "ended by ValueError: a b"),
    (
        "between",
        {"metrics": {"loss": 0.25}, "phases": {"evaluate": 3_000_000}},
        "after the tick: loss 0.2500, evaluate 3 ms",
    ),
    ("unfinished", {"metrics": {"loss": 1.0}}, "in a tick that did not end: loss 1.0000"),
    (
        "gc",
        {"generation": 2, "start_ns": 5, "duration_ns": 31_000_000},
        "garbage collector paused for 31 ms (generation 2)",
    ),
    ("phase left out", {"phase": "p", "thread": "t"}, "phase p of the thread t was left out"),
    (
        "dropped",
        {"kind": "ticks", "records": 1, "first_tick": 3, "last_tick": 4, "error": "full"},
        "the disk did not take 1 record (ticks), of tick 3 to 4: full",
    ),
    ("sampling", {"every": 4}, "phases are measured in one of 4 ticks from now on"),
    ("sampling", {"every": 1}, "phases are measured in every tick from now on"),
    (
        "stall",
        {"seconds": 61.0, "stacks": "x"},
        "no tick came for 1.02 min; the event has the stacks",
    ),
    ("not sampled", {"what": "GPUs", "why": "no driver"}, "GPUs is not sampled: no driver"),
    ("not finite", {"metric": "loss", "value": "nan"}, "loss is nan"),
    (
        "sample",
        {"name": "prose", "kind": "text", "path": "p", "bytes": 3, "text": "O\nRomeo"},
        "sample prose (text): O Romeo",
    ),
    (
        "sample",
        {"name": "digit", "kind": "picture", "path": "p", "bytes": 2048},
        "sample digit (picture), 2 KiB",
    ),
    ("sample", {"text": "of an older version"}, "sample: of an older version"),
    ("samples dropped", {"samples": 2, "name": "x", "why": "full"}, "2 samples not kept: full"),
    (
        "resume",
        {"checkpoint": "tick-00000003", "changed": ["ticks: 4 in the run, 6 asked for"]},
        "went on from tick-00000003; ticks: 4 in the run, 6 asked for",
    ),
    ("resume", {"checkpoint": None, "changed": []}, "went on from the beginning"),
    ("branch", {"checkpoint": "tick-00000003", "changed": []}, "branched from tick-00000003"),
    ("checkpoint", {"path": "tick-00000003"}, "saved tick-00000003"),
    ("checkpoint failed", {"error": "no room"}, "could not save: no room"),
    ("signal", {"signal": "SIGTERM"}, "SIGTERM arrived: the training stops"),
    ("stop", {"reason": "no better loss"}, "stopped: no better loss"),
    ("machine", {"precision": "bf16"}, "runs with precision bf16"),
    ("test", {"loss": 0.5, "accuracy": 0.9}, "on the test set: loss 0.5000, accuracy 0.9000"),
]


@pytest.mark.parametrize(("name", "fields", "words"), WORDS)
def test_events_of_metronorm(name: str, fields: dict[str, Any], words: str) -> None:
    assert in_words(Event(name, 0, 0, 1, 1, fields)) == words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"values": {"a": 1, "deep": {"b": [0.5, None]}}, "empty": {}},
         ": values.a 1, values.deep.b [0.5000, None], empty {}"),
    ],
)  # fmt: skip
def test_events_of_a_script(fields: dict[str, Any], words: str) -> None:
    assert in_words(Event("phone\ncall", 0, 0, 1, 1, fields)) == f"phone call{words}"


@pytest.mark.parametrize("name", sorted({name for name, _, _ in WORDS}))
def test_a_script_may_use_the_same_names(name: str) -> None:
    odd = {"metrics": 3, "phases": [], "records": "x", "every": "x", "config": 1, "changed": 2}
    for fields in ({"odd": 1}, odd, {"phases": {"a": "x"}}, {"config": {"a": 1}}):
        words = in_words(Event(name, 0, 0, 1, 1, fields))
        assert words
        assert words.isprintable(), "one line"
