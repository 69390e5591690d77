"""From files to examples: split, cut, counted, and labels that fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from metronorm.errors import ConfigError, DataError
from metronorm.finetune.data_config import DataConfig
from metronorm.finetune.preparing import Prepared, prepare
from metronorm.finetune.samples import show_samples
from tests.finetune.chats import THINKING, for_texts, said, tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chats(path: Path, count: int = 20) -> str:
    rows = [{"messages": said(f"is it {n}?", f"yes {n}")} for n in range(count)]
    return jsonl(path, rows)


def prepared(task: Any, *data: str, context: int = 200, **options: Any) -> Prepared:
    labels = options.pop("labels", None)
    made = options.pop("tokenizer", None) or (for_texts() if task == "classify" else tokenizer())
    return prepare(
        DataConfig(data=data, **options), made, task=task, context=context, labels=labels
    )


def written(examples: Any, *, counted: bool = False) -> list[str]:
    made = tokenizer()
    return [made.decode(each.ids[each.weights > 0] if counted else each.ids) for each in examples]


def test_a_chat_becomes_examples_on_two_sides(tmp_path: Path) -> None:
    made = prepared("chat", chats(tmp_path / "a.jsonl"), validation=0.2)
    assert (len(made.train), len(made.validation)) == (16, 4)
    assert sorted(each.line for side in (made.train, made.validation) for each in side) == list(
        range(1, 21)
    )
    example = made.train[0]
    assert written([example], counted=True) == [f"yes {example.line - 1}<|im_end|>"]
    assert set(np.unique(example.weights)) == {0.0, 1.0}
    assert made.ends == (tokenizer().eos_token_id,)
    assert prepared("chat", str(tmp_path / "a.jsonl"), validation=0).validation is None


def test_the_same_data_is_split_in_the_same_way(tmp_path: Path) -> None:
    chats(tmp_path / "a.jsonl")
    lines = [
        [each.line for each in prepared("chat", str(tmp_path / "a.jsonl"), split_seed=s).validation]
        for s in (0, 0, 1)
    ]
    assert lines[0] == lines[1] != lines[2]


def test_copies_are_dropped_and_counted_or_kept_on_one_side(tmp_path: Path) -> None:
    rows = [{"messages": said(f"is it {n % 5}?", "yes")} for n in range(20)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    dropped = prepared("chat", path, validation=0.4)
    assert dropped.ledger.reasons == {"a copy of an earlier row": (15, 0)}
    assert dropped.ledger.dropped[0].detail == f"line 1 of {path}"
    assert (len(dropped.train), len(dropped.validation)) == (3, 2)
    kept = prepared("chat", path, validation=0.4, duplicates="keep")
    assert kept.ledger.notes == {"copies of earlier rows": 15}
    assert (len(kept.train), len(kept.validation)) == (12, 8)
    assert not set(written(kept.train)) & set(written(kept.validation))


def test_rows_that_are_also_validated_on_are_not_trained_on(tmp_path: Path) -> None:
    train, held = chats(tmp_path / "a.jsonl", 20), chats(tmp_path / "b.jsonl", 5)
    made = prepared("chat", train, validation_data=(held,))
    assert (len(made.train), len(made.validation)) == (15, 5)
    assert made.ledger.reasons == {"also in the validation data": (5, 0)}


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_prompts_have_the_weight_that_was_chosen(tmp_path: Path, weight: float) -> None:
    made = prepared("chat", chats(tmp_path / "a.jsonl"), prompt_weight=weight)
    example = made.train[0]
    assert example.weights[0] == 0
    assert set(example.weights[1:].tolist()) == {weight, 1}
    kinds = made.ledger.sides["training"].tokens
    prompts = kinds["prompts, weight 0.25" if weight else "masked: prompts"]
    assert prompts == (made.train.weights == weight).sum() - (0 if weight else len(made.train))


LONG = {"prompt": "is it a tick? " * 30, "completion": "yes"}


def test_a_long_prompt_is_cut_in_the_middle_and_its_answer_is_whole(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [LONG])
    made = prepared("chat", path, max_tokens=100, validation=0)
    (example,) = made.train
    assert len(example.ids) == 100
    (text,) = written([example])
    assert text.startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nis it a tick"
    )
    assert text.endswith("tick? <|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n")
    side = made.ledger.sides["training"]
    assert (side.rows_cut, side.tokens["cut"]) == (1, made.ledger.tokens - 100)


@pytest.mark.parametrize(
    ("row", "options", "reason"),
    [
        (LONG, {"too_long": "drop"}, "too long"),
        (
            {"prompt": "a", "completion": "yes " * 200},
            {},
            "too long, even with its prompt cut",
        ),
    ],
)
def test_a_row_that_is_too_long_is_dropped_and_counted(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row, {"prompt": "a", "completion": "b"}])
    made = prepared("chat", path, max_tokens=100, validation=0, **options)
    assert len(made.train) == 1
    ((found, (rows, tokens)),) = made.ledger.reasons.items()
    assert (found, rows) == (reason, 1)
    assert tokens > 100


def test_a_row_that_is_too_long_can_be_an_error(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [LONG])
    with pytest.raises(DataError, match=r"at most 100 tokens; got \d+ in line 1 of .*a.jsonl"):
        prepared("chat", path, max_tokens=100, too_long="refuse")


def test_a_long_text_continues_in_further_examples(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the answer is yes or no\n" * 20)
    made = prepared("text", str(tmp_path / "a.txt"), max_tokens=32, validation=0)
    assert "".join(written(made.train)) == "the answer is yes or no\n" * 20 + "<|im_end|>"
    assert all(len(each.ids) <= 32 for each in made.train)
    side = made.ledger.sides["training"]
    assert (side.rows, side.examples) == (1, len(made.train))
    assert made.ledger.notes == {"examples that continue a long text": len(made.train) - 1}


def test_the_end_of_a_text_that_is_alone_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the answer is yes or no\n" * 20)
    made = prepared("text", str(tmp_path / "a.txt"), max_tokens=16)
    both = [*made.train, *made.validation]
    assert "".join(written(both)) == "the answer is yes or no\n" * 20 + "<|im_end|>"
    assert len(made.validation) == -(-len(both) // 10)
    assert {name: side.rows for name, side in made.ledger.sides.items()} == {
        "training": 1,
        "validation": 0,
    }
    (tmp_path / "b.txt").write_text("yes or no")
    assert prepared("text", str(tmp_path / "b.txt")).validation is None


def test_columns_that_are_not_used_are_known(tmp_path: Path) -> None:
    rows = [{"id": 1, "question": "a", "context": "b", "answer": "c"}]
    made = prepared("chat", jsonl(tmp_path / "a.jsonl", rows))
    assert made.ledger.columns == {"prompt": "question", "completion": "answer"}
    assert made.ledger.unused_columns == ("id", "context")


def test_each_answer_can_be_an_example_of_its_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"messages": said("a", "yes", "b", "no")}])
    options = {"tokenizer": tokenizer(THINKING), "validation": 0}
    with pytest.raises(DataError, match=r"1: the chat template rewrites earlier turns"):
        prepared("chat", path, **options)
    made = prepared("chat", path, turns="split", **options)
    assert [text.split("\n")[-1] for text in written(made.train, counted=True)] == [
        "yes<|im_end|>",
        "no<|im_end|>",
    ]
    side = made.ledger.sides["training"]
    assert (side.rows, side.examples) == (1, 2)


def classes(path: Path, labels: list[Any]) -> str:
    return jsonl(path, [{"text": f"yes {n}", "label": label} for n, label in enumerate(labels)])


def test_labels_are_numbered_in_order(tmp_path: Path) -> None:
    made = prepared("classify", classes(tmp_path / "a.jsonl", ["b", "c", "a", "b"] * 5))
    assert made.labels == ("a", "b", "c")
    assert made.class_weights is None
    assert {each.line: each.label for each in made.train}.items() <= dict(
        enumerate([1, 2, 0, 1] * 5, 1)
    ).items()
    numbers = prepared("classify", classes(tmp_path / "b.jsonl", list(range(12)) * 2))
    assert numbers.labels == tuple(map(str, range(12)))


def test_classes_together_weigh_the_same_if_so_chosen(tmp_path: Path) -> None:
    path = classes(tmp_path / "a.jsonl", ["a"] * 6 + ["b"] * 2)
    made = prepared("classify", path, class_weights="balanced", validation=0)
    assert made.class_weights is not None
    assert made.class_weights.tolist() == pytest.approx([8 / 12, 8 / 4])
    assert made.class_weights[made.train.labels].mean() == pytest.approx(1)


def test_a_long_text_to_classify_keeps_its_ends(tmp_path: Path) -> None:
    rows = [{"text": f"{word} {'is ' * 60}{word}", "label": word} for word in ("yes", "no")]
    made = prepared("classify", jsonl(tmp_path / "a.jsonl", rows), max_tokens=24, validation=0)
    texts = [for_texts().decode(each.ids) for each in made.train]
    assert all(len(each.ids) == 24 for each in made.train)
    assert texts[0].startswith("<s>yes is is")
    assert texts[0].endswith("is is yes<|end|>")


def test_labels_that_training_does_not_have_are_refused(tmp_path: Path) -> None:
    train = classes(tmp_path / "a.jsonl", ["a", "b"])
    held = jsonl(tmp_path / "b.jsonl", [{"text": t, "label": t} for t in ("x", "b", "y")])
    with pytest.raises(
        DataError, match=r"among those of training; got x, y; try: labels among a, b"
    ):
        prepared("classify", train, validation_data=(held,))
    with pytest.raises(DataError, match=r"must have the labels of the data; got b; .* among a, c"):
        prepared("classify", train, labels=("a", "c"))
    with pytest.raises(DataError, match="two labels at least; got only 'a'"):
        prepared("classify", classes(tmp_path / "c.jsonl", ["a", "a"]))


def test_the_labels_of_a_model_keep_their_numbers(tmp_path: Path) -> None:
    path = classes(tmp_path / "a.jsonl", ["a", "b"])
    made = prepared("classify", path, labels=("b", "z", "a"), validation=0)
    assert made.labels == ("b", "z", "a")
    assert [each.label for each in made.train] == [2, 0]


def test_data_without_a_usable_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    rows = [{"messages": said("a", "")}, {"messages": said("a")}, {"messages": said("b", " ")}]
    with pytest.raises(DataError, match=r"none of 3 rows in .*, 2: empty answer; 1: no answer to"):
        prepared("chat", jsonl(tmp_path / "a.jsonl", rows))
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(DataError, match=r"none of 0 rows in .*b\.jsonl"):
        prepared("chat", str(tmp_path / "b.jsonl"))


def test_an_error_is_about_the_set_that_has_no_rows(tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl", 3)
    with pytest.raises(DataError, match=r"none of 3 rows in .*, 3: also in the validation data"):
        prepared("chat", path, validation_data=(path,))


def test_an_answer_of_a_split_conversation_that_is_too_long_is_counted(tmp_path: Path) -> None:
    messages = said("a", "yes", "b", "no " * 80)
    path = jsonl(tmp_path / "a.jsonl", [{"messages": messages}])
    made = prepared("chat", path, turns="split", max_tokens=64, validation=0)
    assert written(made.train, counted=True) == ["yes<|im_end|>"]
    assert made.ledger.notes == {"answers of split conversations that are too long": 1}
    assert made.ledger.sides["training"].tokens["cut"] > 64


def test_more_tokens_than_the_context_are_refused(tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"at most the model's context, 64, .* got 65"):
        prepared("chat", path, max_tokens=65, context=64)


def test_samples_show_what_is_trained_on(tmp_path: Path) -> None:
    rows = [{"messages": said("\x1b[31m é?", f"yes {n}")} for n in range(9)]
    made = prepared("chat", jsonl(tmp_path / "a.jsonl", rows), validation=0)
    shown = list(show_samples(made.train, tokenizer(), count=2))
    assert [text.plain.split("\n")[0].rsplit("/")[-1][:17] for text in shown] == [
        "a.jsonl, line 1: ",
        "a.jsonl, line 9: ",
    ]
    assert r"\x1b[31m é?" in shown[0].plain
    bold = [
        text.plain[s.start : s.end] for text in shown for s in text.spans if "bold" in str(s.style)
    ]
    assert bold == ["yes 0<|im_end|>", "yes 8<|im_end|>"]
    labelled = prepared("classify", classes(tmp_path / "b.jsonl", ["a", "b"]), validation=0)
    assert (
        ", b\n" in list(show_samples(labelled.train, for_texts(), labels=labelled.labels))[1].plain
    )
