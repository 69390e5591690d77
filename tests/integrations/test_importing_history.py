from hypothesis import given
from hypothesis import strategies as st

from metronorm.clock.column_names import Names
from metronorm.integrations.importing.history import History, Places, Value
from metronorm.integrations.names import MetricNames, tag_of


def logged(tag: str, steps: list[int], value: float = 0.0, begin: int = 0) -> list[Value]:
    return [(step, begin + number, tag, value) for number, step in enumerate(steps)]


def metrics(history: History) -> list[dict[int, dict[str, float]]]:
    return [{step: row.metrics for step, row in rows.items()} for rows in history.attempts]


def test_values_of_a_step_are_one_row_with_the_first_time() -> None:
    history = History()
    history.extend([(1, 5, "a", 1.0), (2, 6, "a", 2.0), (1, 9, "b", 3.0)])
    assert list(history.ticks(0)) == [(1, 5, 0, {"a": 1.0, "b": 3.0}), (2, 6, 1, {"a": 2.0})]


def test_a_stretch_that_goes_back_begins_an_attempt() -> None:
    history = History()
    history.extend(logged("a", [10, 20, 30]))
    history.extend(logged("a", [25, 35], 1.0))
    assert metrics(history) == [
        {10: {"a": 0.0}, 20: {"a": 0.0}, 30: {"a": 0.0}},
        {25: {"a": 1.0}, 35: {"a": 1.0}},
    ]


def test_a_stretch_that_continues_begins_no_attempt() -> None:
    history = History()
    history.extend(logged("a", [1, 2]))
    history.extend([*logged("a", [3]), *logged("b", [1])])
    history.extend(logged("c", [0]))
    assert len(history.attempts) == 1


def test_a_parallel_stretch_continues_the_other() -> None:
    history = History()
    history.extend(logged("a", [1, 2, 3]))
    history.extend(logged("a", [0, 2], 1.0), is_parallel=True)
    assert metrics(history) == [{1: {"a": 0.0}, 2: {"a": 1.0}, 3: {"a": 0.0}, 0: {"a": 1.0}}]
    assert history.replaced == 1


def test_a_metric_logged_again_before_its_newest_step_begins_an_attempt() -> None:
    history = History()
    history.extend(logged("a", [0, 1, 2, 0, 1, 2, 1]))
    assert [list(rows) for rows in history.attempts] == [[0, 1, 2], [0, 1, 2], [1]]


def test_a_late_value_is_only_late() -> None:
    history = History()
    history.extend(logged("a", [0, 2, 1, 3]))
    assert [sorted(rows) for rows in history.attempts] == [[0, 1, 2, 3]]


def test_of_two_values_the_last_one_wins() -> None:
    history = History()
    history.extend([(1, 0, "a", 1.0), (1, 0, "a", 2.0)])
    assert metrics(history) == [{1: {"a": 2.0}}]
    assert history.replaced == 1


def test_a_restart_of_metrics_on_two_axes_undoes_nothing() -> None:
    history = History()
    epochs = [(step // 100, step, "validation", 0.0) for step in range(100, 1000, 100)]
    history.extend([*logged("loss", list(range(0, 1000, 10))), *epochs])
    history.extend([*logged("loss", list(range(900, 1200, 10)), 1.0), (9, 0, "validation", 1.0)])
    assert history.mixed
    (rows,) = history.attempts
    assert sorted(rows) == sorted({*range(0, 1200, 10), *range(1, 10)})
    assert rows[900].metrics == {"loss": 1.0}
    assert rows[9].metrics == {"validation": 1.0}


def test_the_value_at_the_checkpoint_is_not_a_second_axis() -> None:
    history = History()
    history.extend([*logged("loss", list(range(0, 1000, 10))), (900, 1, "validation", 0.0)])
    history.extend([*logged("loss", list(range(900, 1200, 10))), (1000, 1, "validation", 0.0)])
    assert len(history.attempts) == 2


def test_purged_values_are_left_out() -> None:
    history = History()
    history.extend([*logged("a", list(range(10))), *logged("b", [7])])
    history.extend(logged("a", [12, 13], 1.0), purge=5)
    assert metrics(history) == [
        {step: {"a": 0.0} for step in range(5)},
        {12: {"a": 1.0}, 13: {"a": 1.0}},
    ]
    assert history.purged == 6


def test_purged_values_that_are_logged_again_are_an_older_attempt() -> None:
    history = History()
    history.extend(logged("a", list(range(10))))
    history.extend(logged("a", [5, 6], 1.0), purge=5)
    assert [list(rows) for rows in history.attempts] == [list(range(10)), [5, 6]]
    assert history.purged == 0


def test_a_writer_may_purge_all_and_log_nothing() -> None:
    history = History()
    history.extend(logged("a", list(range(4))))
    history.extend([], purge=2)
    assert [list(rows) for rows in history.attempts] == [[0, 1]]
    history.extend(logged("a", [9]), purge=0)
    assert [list(rows) for rows in history.attempts] == [[9]]
    assert history.purged == 4


values = st.tuples(st.integers(0, 5), st.integers(0, 100), st.sampled_from("abc"), st.floats(0, 1))


@given(st.lists(st.lists(values, min_size=1), min_size=1, max_size=4))
def test_the_last_value_of_each_metric_and_step_is_there(stretches: list[list[Value]]) -> None:
    history = History()
    for stretch in stretches:
        history.extend(stretch)
    wanted = {(tag, step): value for stretch in stretches for step, _, tag, value in stretch}
    found = {
        (name, step): value
        for rows in history.attempts
        for step, row in rows.items()
        for name, value in row.metrics.items()
    }
    assert found == wanted
    logged_values = sum(map(len, stretches))
    kept = sum(len(row.metrics) for rows in history.attempts for row in rows.values())
    assert kept + history.replaced == logged_values


def test_the_tick_of_a_moment() -> None:
    history = History()
    history.extend([(1, 10, "a", 0.0), (2, 20, "a", 0.0), (3, 30, "a", 0.0)])
    history.extend([(2, 40, "a", 0.0)])
    places = Places(history)
    found = {at: places.find(at) for at in (0, 10, 11, 30, 31, 40, 99)}
    assert found == {
        0: (0, 1),
        10: (0, 1),
        11: (0, 2),
        30: (0, 3),
        31: (1, 2),
        40: (1, 2),
        99: (1, 2),
    }


awkward = st.one_of(
    st.sampled_from(["tick", "Tick", "rank", "attempt", "beats", "time_ns", "", "_ns", "loss_NS"]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)


@given(st.lists(st.tuples(awkward, st.integers(0, 2)).map(lambda it: it[0] + "_" * it[1])))
def test_names_are_different_columns_and_have_a_way_back(tags: list[str]) -> None:
    names = MetricNames()
    made = {tag: names[tag] for tag in tags}
    assert len({name.lower() for name in made.values()}) == len(made)
    assert {tag: names[tag] for tag in tags} == made
    assert Names().check(made.values()) == []  # the clock takes them
    alone = {tag: MetricNames()[tag] for tag in tags if "\0" not in tag}
    assert all(tag_of(name) == tag for tag, name in alone.items())


def test_names_that_sql_does_not_distinguish() -> None:
    names = MetricNames()
    assert [names[tag] for tag in ("loss", "Loss", "LOSS", "loss_")] == [
        "loss",
        "Loss_",
        "LOSS__",
        "loss___",
    ]
