"""A config is read as it was given, and what a resume changes is recorded."""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.clock import Clock, read_run_info
from metronorm.errors import ConfigError, RunError
from metronorm.store.run_config import differences, from_json
from metronorm.store.run_directory import create_run, run_file

from ..clock import records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def kept(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a new run, as it is read back."""
    create_run(run, name=None, config=config)
    return read_run_info(run).config


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_a_config_is_read_as_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    read = kept(tmp_path_factory.mktemp("config") / "run", config)
    assert repr(read) == repr(config), "(a NaN equals itself in no other way)"


def test_numbers_that_json_lacks_are_kept(tmp_path: Path) -> None:
    config = {
        "seed": 12345678901234567890,
        "large": -(10**40),
        "clip": math.inf,
        "low": [1.0, -math.inf, {"deep": math.nan}],
        "text": "inf",
    }
    assert repr(kept(tmp_path / "run", config)) == repr(config)
    file = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert file["config"]["clip"] == "inf", "any reader of JSON reads it"
    assert file["not_finite"] == [["clip"], ["low", 1], ["low", 2, "deep"]]


def test_tuples_and_numbers_as_keys_are_kept_as_json_has_them(tmp_path: Path) -> None:
    config = {"betas": (0.9, math.inf), "at": {1000: math.nan}}
    read = kept(tmp_path / "run", config)
    assert repr(read) == repr({"betas": [0.9, math.inf], "at": {"1000": math.nan}})


@pytest.mark.parametrize("place", [[], ["b"], ["a", "b"], ["list", 7], ["list", "x"], ["text"]])
def test_a_place_that_holds_no_number_is_ignored(place: list[str | int]) -> None:
    config = {"a": 1, "list": [1], "text": "word"}
    assert from_json(dict(config), [place]) == config


def test_what_json_cannot_hold_is_an_error(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    for config in ({"a": object()}, loop, {"a": "\udcff"}, {"a": 10**5000}, {(1, 2): 3}):
        with pytest.raises(ConfigError, match="plain JSON values"):
            create_run(tmp_path / "run", name=None, config=config)
    assert not (tmp_path / "run").exists()


def test_runs_without_such_numbers_have_no_list_of_places(tmp_path: Path) -> None:
    info = create_run(tmp_path / "run", name=None, config={"a": 1.5})
    assert b"not_finite" not in run_file(info)
    assert read_run_info(tmp_path / "run") == info


def test_names_that_are_no_unicode_do_not_stop_a_run(tmp_path: Path) -> None:
    """Linux permits such names of files, and so in paths and arguments."""
    script = "import sys; from pathlib import Path; "
    script += "from metronorm.store.run_directory import create_run; "
    script += "create_run(Path(sys.argv[1]), name=None, config={})"
    folder = os.fsencode(tmp_path) + b"/r\xff"
    subprocess.run([sys.executable, "-c", script, folder], check=True)
    info = read_run_info(Path(os.fsdecode(folder)))
    assert info.name == "r\\xff"
    assert info.command[-1].endswith("r\\xff")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"config": ' + "[" * 200_000, "\udcff", "1", ""])
def test_damaged_descriptions_end_in_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match="must be a run description"):
        read_run_info(tmp_path)


def test_a_pipe_in_the_place_of_a_description_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RunError, match=r"must be readable.*not a regular file"):
        read_run_info(tmp_path)


# --- what a resume changes ------------------------------------------------------------------------


def test_differences() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": math.nan}, "e": "x", "left out": 1}
    assert differences(before, {"a": 1, "b": {"c": [1, 2], "d": math.nan}}) == {}
    after = {"a": True, "b": {"c": (1, 3), "d": math.inf, "new": {}}, "e": 5}
    assert differences(before, after) == {
        "a": [1, True],
        "b.c": [[1, 2], [1, 3]],
        "b.d": [before["b"]["d"], math.inf],
        "b.new": [None, {}],
        "e": ["x", 5],
    }


def changed(run: Path, caplog: pytest.LogCaptureFixture, **given: Any) -> list[dict[str, Any]]:
    """The events `changed` of an attempt that resumes a run; a warning reports each."""
    caplog.clear()
    with Clock(run, resume=True, progress=False, stall=None, **given) as clock:
        pass
    events = records.events(run, clock.attempt)
    found = [event["fields"] for event in events if event["event"] == "changed"]
    warnings = [message for _, level, message in caplog.record_tuples if level == logging.WARNING]
    assert len(warnings) == len(found)
    assert all("an event `changed` has both" in message for message in warnings)
    return found


def test_another_config_or_name_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    config = {"learning_rate": 0.1, "clip": math.inf, "optimizer": {"beta": 0.9}}
    with Clock(run, config=config, name="first", progress=False, stall=None):
        pass
    assert changed(run, caplog) == []
    assert changed(run, caplog, config=config, name="first") == []
    other = {"learning_rate": 0.01, "clip": math.inf, "optimizer": {"beta": 0.5}}
    assert changed(run, caplog, config=other, name="second") == [
        {
            "config": {"learning_rate": [0.1, 0.01], "optimizer.beta": [0.9, 0.5]},
            "name": ["first", "second"],
        }
    ]
    assert "another config and name" in caplog.text
    assert read_run_info(run).config == config
    assert read_run_info(run).name == "first"
    assert changed(run, caplog, config={"clip": math.nan}) == [{"config": {"clip": ["inf", "nan"]}}]
    with pytest.raises(ConfigError, match="plain JSON"):
        Clock(run, resume=True, config={"a": object()}).open()


def test_numbers_that_json_lacks_stand_in_events_as_text(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:
        clock.event("a", value=math.nan, list=[math.inf, Path("x")], seed=10**30)
        clock.event("b", loop=loop)
    fields = [event["fields"] for event in records.events(tmp_path / "run")]
    assert {"value": "nan", "list": ["inf", "x"], "seed": 10**30} in fields
    assert {"text": "{'loop': [[...]]}"} in fields
