"""The Python code that replaces the C++ extension does the same."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.clock import _ticking
from metronorm.clock import phase_accounts as accounts
from metronorm.store.schema import LARGEST_INTEGER

from .virtual import VirtualTime

ACT = st.one_of(
    st.tuples(st.sampled_from(["enter", "exit"]), st.sampled_from("abc")),
    st.tuples(st.just("pass"), st.integers(-5, 1000)),
    st.tuples(st.sampled_from(["begin", "pause", "close"]), st.none()),
)


def replayed(accounts_type: Any, account_type: Any, acts: list[tuple[str, Any]]) -> list[Any]:
    time = VirtualTime()
    made = accounts_type(time, "rest", bool)
    named = {name: account_type(made, name) for name in "abc"}
    found: list[Any] = []
    for act, argument in acts:
        if act == "pass":
            time.ns += argument  # also backwards, as a clock that is set
        elif act == "enter":
            named[argument].__enter__()
        elif act == "exit":
            named[argument].__exit__(None, None, None)
        else:
            found.append(getattr(made, act)())
        found.append((made.entered, made.counting, made.last))
    return [*found, made.close()]


@given(st.lists(ACT, max_size=40))
def test_the_plain_accounts_do_the_same(acts: list[tuple[str, Any]]) -> None:
    in_cpp = replayed(_ticking.Accounts, _ticking.Account, acts)
    assert in_cpp == replayed(accounts.PlainAccounts, accounts.PlainAccount, acts)


@pytest.mark.parametrize(
    "value", [1.0, 3, LARGEST_INTEGER, -LARGEST_INTEGER, LARGEST_INTEGER + 1, True, None, "1"]
)
@pytest.mark.parametrize("known", [{"a"}, {"b"}])
def test_the_plain_check_finds_the_same(value: Any, known: set[str]) -> None:
    for metrics in ({"a": value}, {}, {"a": 0.5, "b": value}):
        plain = accounts.plain_all_plain(metrics, known)
        assert plain is _ticking.all_plain(metrics, known)


def test_a_clock_without_the_extension(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["metronorm.clock._ticking"] = None
from metronorm.clock import Clock
from metronorm.clock import phase_accounts as accounts
from metronorm.runs import open_run
assert accounts.Account is accounts.PlainAccount
with Clock({str(tmp_path / "run")!r}, progress=False) as clock:
    for number in clock.ticks(range(5)):
        with clock.phase("forward"):
            clock.log(loss=1 / (number + 1), tokens=3)
for row in open_run({str(tmp_path / "run")!r}).ticks().rows():
    assert row["forward_ns"] >= 0 and row["loss"] == 1 / row["tick"], row
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)
