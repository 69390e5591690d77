"""The ledger adds up, whatever the data: every row and every token is in it once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from rich.console import Console

from metronorm.data.refused import RowRefused
from metronorm.errors import DataError
from metronorm.finetune.data_config import DataConfig
from metronorm.finetune.ledger import Ledger, Side
from metronorm.finetune.preparing import prepare
from metronorm.finetune.rows import Row
from tests.finetune.chats import INST, THINKING, for_texts, said, tokenizer

WORDS = st.text("yes no\n<|end|>é", max_size=60)
MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "system", "judge"]),
        WORDS | st.none(),
    ),
    max_size=5,
)
ROWS = {
    "chat": st.builds(lambda texts: {"messages": said(*texts)}, st.lists(WORDS, max_size=5))
    | st.builds(lambda messages: {"messages": messages}, MESSAGES),
    "text": st.builds(lambda a, b: {"prompt": a, "completion": b}, WORDS, WORDS | st.none()),
    "classify": st.builds(lambda a, b: {"text": a, "label": b}, WORDS, st.integers(0, 2)),
}
OPTIONS = st.fixed_dictionaries(
    {
        "too_long": st.sampled_from(["cut", "drop"]),
        "turns": st.sampled_from(["together", "split"]),
        "duplicates": st.sampled_from(["drop", "keep"]),
        "prompt_weight": st.sampled_from([0.0, 0.25, 1.0]),
        "validation": st.sampled_from([0.0, 0.3]),
        "max_tokens": st.sampled_from([8, 40, 200]),
    }
)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["chat", "text", "classify"]), OPTIONS)
def test_every_row_and_token_is_counted_once(
    data: st.DataObject, task: Any, options: dict[str, Any]
) -> None:
    good = data.draw(st.lists(ROWS[task], min_size=1, max_size=8))
    lines = [json.dumps(row) for row in good]
    lines += data.draw(
        st.lists(st.sampled_from(["", "{", "[1]", '{"a": 1}', lines[0]]), max_size=4)
    )
    made = tokenizer(data.draw(st.sampled_from([INST, THINKING]))) if task != "classify" else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("\n".join(lines))
        try:
            prepared = prepare(
                DataConfig(data=(str(path),), **options),
                made or for_texts(),
                task=task,
                context=200,
            )
        except DataError:  # no row can be used; if this were often so, hypothesis would say it
            reject()
    ledger = prepared.ledger
    sets = {"training": prepared.train, "validation": prepared.validation}
    sets = {name: examples for name, examples in sets.items() if examples is not None}
    assert ledger.sides.keys() == sets.keys()
    used = {name: {example.line for example in examples} for name, examples in sets.items()}
    if len(used["training"]) == 1 and task == "text":  # its end may be held out
        used["validation"] = used.get("validation", set()) - used["training"]
    places = [*(line for of in used.values() for line in of), *(d.line for d in ledger.dropped)]
    assert sorted(places) == [number for number, line in enumerate(lines, 1) if line]
    assert ledger.rows == len(places)
    total = sum(each.tokens for each in ledger.dropped)
    for name, examples in sets.items():
        side = ledger.sides[name]
        assert (side.rows, side.examples) == (len(used[name]), len(examples))
        tokens = dict(side.tokens)
        cut = tokens.pop("cut", 0)
        assert sum(tokens.values()) == len(examples.texts.ids)
        assert all(len(example.ids) <= options["max_tokens"] for example in examples)
        total += sum(tokens.values()) + cut
        if task != "classify":
            assert tokens.pop("masked: first tokens") == len(examples)
            if options["prompt_weight"] in (0, 1):  # else the weights alone tell answers apart
                trained = int((examples.weights > 0).sum())
                prompts = tokens.pop("prompts, weight 1", 0) if options["prompt_weight"] else 0
                assert tokens.pop("trained") + prompts == trained
    assert ledger.tokens == total
    assert ledger.adds_up()


PIECES = [
    "text",
    "a",
    '"',
    '""',
    ",",
    ";",
    "\t",
    "\n",
    "\r\n",
    "{",
    '{"text": "a b"}',
    "[",
    "]",
    "é",
    " ",
]
FRAGMENTS = st.lists(st.sampled_from(PIECES).map(str.encode) | st.binary(max_size=3), max_size=30)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt"]), FRAGMENTS)
def test_any_file_is_counted_or_refused(suffix: str, fragments: list[bytes]) -> None:
    begin = {".csv": b"text\nhello\n", ".tsv": b"text\tid\nhello\t1\n", ".txt": b"hello"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        path.write_bytes(begin.get(suffix, b'{"text": "hello"}\n') + b"".join(fragments))
        try:
            made = prepare(DataConfig(data=(str(path),)), tokenizer(), task="text", context=999)
        except DataError as error:
            assert suffix == ".txt" and "none of 1 row" in str(error)  # noqa: PT017, PT018
            return
    assert made.ledger.adds_up()
    assert made.ledger.rows == len(made.train) + len(made.validation or ()) + len(
        made.ledger.dropped
    )


def test_a_ledger_that_lost_something_does_not_add_up() -> None:
    ledger = Ledger(rows=2, tokens=5, sides={"training": Side(1, 1, tokens={"trained": 5})})
    assert not ledger.adds_up()
    ledger.drop(Row({}, "a", 3), RowRefused("empty answer"))
    assert ledger.adds_up()
    ledger.tokens += 1
    assert not ledger.adds_up()


def test_the_table_ends_with_what_was_read() -> None:
    side = Side(90, 100, 2, {"trained": 4000, "masked: prompts": 900, "cut": 100})
    ledger = Ledger(rows=92, tokens=5007, sides={"training": side})
    ledger.drop(Row({}, "a", 3), RowRefused("too long", "7 tokens"), 7)
    ledger.drop(Row({}, "a", 4), RowRefused("bad\x1b"))
    console = Console(width=60, color_system=None)
    with console.capture() as captured:
        console.print(ledger.table())
    assert [line.split() for line in captured.get().splitlines()[1:]] == [
        ["training", "(100", "examples)", "90", "5,000"],
        ["trained", "4,000"],
        ["masked:", "prompts", "900"],
        ["cut", "(2", "rows)", "100"],
        ["dropped", "2", "7"],
        ["too", "long", "1", "7"],
        [r"bad\x1b", "1", "0"],
        ["all", "that", "was", "read", "92", "5,007"],
    ]


def test_notices_say_which_columns_are_used() -> None:
    ledger = Ledger(columns={"prompt": "q", "completion": "a"}, unused_columns=("id",))
    ledger.notes["texts in UTF-16"] += 1200
    assert ledger.notices() == [
        "columns: prompt=q, completion=a; not used: id",
        "texts in UTF-16: 1,200",
    ]
    assert Ledger().notices() == []


def test_the_summary_is_of_plain_values() -> None:
    ledger = Ledger(rows=1, tokens=np.int64(3).item(), sides={"training": Side(tokens={"cut": 3})})
    ledger.notes["texts in UTF-16"] += 1
    ledger.drop(Row({}, "a", 3), RowRefused("too long"), 3)
    assert json.loads(json.dumps(ledger.summary())) == {
        "rows": 1,
        "tokens": 3,
        "sets": {"training": {"rows": 0, "examples": 0, "rows cut": 0, "tokens": {"cut": 3}}},
        "dropped": {"too long": {"rows": 1, "tokens": 3}},
        "notes": {"texts in UTF-16": 1},
        "columns": {},
        "unused columns": [],
    }
