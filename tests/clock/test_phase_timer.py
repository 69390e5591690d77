import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.clock.phase_timer import Ledger
from metronorm.errors import ConfigError
from metronorm.store.schema import UNATTRIBUTED

from .virtual import VirtualTime


def test_nested_phases_are_charged_their_own_time() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    ledger.begin()
    time.pass_(5)
    with ledger.phases["forward"]:
        time.pass_(10)
        with ledger.phases["attention"]:
            time.pass_(100)
        time.pass_(20)
    time.pass_(3)
    assert ledger.close() == (138, {"forward": 30, "attention": 100, UNATTRIBUTED: 8})


def test_time_between_loops_belongs_to_no_tick_but_its_phases_count() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    time.pass_(1_000)
    with ledger.phases["evaluate"]:
        time.pass_(7)
    time.pass_(1_000)
    ledger.begin()
    time.pass_(2)
    assert ledger.close() == (9, {"evaluate": 7, UNATTRIBUTED: 2})
    time.pass_(4)
    ledger.pause()
    time.pass_(1_000)
    assert ledger.close() == (4, {UNATTRIBUTED: 4})


def test_a_phase_open_across_the_end_of_a_tick_is_split_there() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    with ledger.phases["epoch"]:
        ledger.begin()
        time.pass_(10)
        assert ledger.close() == (10, {"epoch": 10, UNATTRIBUTED: 0})
        time.pass_(20)
    time.pass_(1)
    assert ledger.close() == (21, {"epoch": 20, UNATTRIBUTED: 1})


def test_a_phase_is_left_by_an_exception_too() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    ledger.begin()
    with contextlib.suppress(KeyError), ledger.phases["forward"]:
        time.pass_(10)
        raise KeyError
    time.pass_(1)
    assert ledger.close() == (11, {"forward": 10, UNATTRIBUTED: 1})


@pytest.mark.parametrize("name", ["", "unattributed", "time", "wall"])
def test_reserved_names(name: str) -> None:
    with pytest.raises(ConfigError, match="a phase needs a name"):
        Ledger(VirtualTime()).phases[name]


@given(
    st.recursive(
        st.integers(0, 10**12),
        lambda inner: st.tuples(st.sampled_from("abcd"), st.lists(inner, max_size=4)),
        max_leaves=30,
    )
)
def test_phases_and_the_rest_add_up_to_the_wall(tree: object) -> None:
    """However phases are nested, their sum is the time that passed."""
    time = VirtualTime()
    ledger = Ledger(time)
    ledger.begin()
    own: dict[str, int] = {}

    def live(node: object, account: str) -> None:
        if isinstance(node, int):
            time.pass_(node)
            own[account] = own.get(account, 0) + node
            return
        assert isinstance(node, tuple)
        name, children = node
        with ledger.phases.get(name) or ledger.phases[name]:
            for child in children:
                live(child, name)

    begun = time()
    live(tree, UNATTRIBUTED)
    wall_ns, spent = ledger.close()
    assert wall_ns == time() - begun == sum(spent.values())
    assert {k: v for k, v in spent.items() if v} == {k: v for k, v in own.items() if v}
