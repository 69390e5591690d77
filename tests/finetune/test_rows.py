"""Rows from files: where each begins, and what cannot be read is counted."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import duckdb
import pytest

from metronorm.errors import DataError
from metronorm.finetune.ledger import Ledger
from metronorm.finetune.rows import Row, read_rows

if TYPE_CHECKING:
    from pathlib import Path


def read(*sources: Path, limit: int = 0) -> tuple[list[Row], Ledger]:
    ledger = Ledger()
    rows = list(read_rows([str(source) for source in sources], ledger, limit=limit))
    assert ledger.rows == len(rows) + len(ledger.dropped)
    return rows, ledger


def refused(ledger: Ledger) -> list[tuple[int, str]]:
    return [(each.line, each.reason) for each in ledger.dropped]


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_of_json_have_their_numbers_and_bad_ones_are_counted(tmp_path: Path) -> None:
    lines = (
        b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": 1}\n[1]\n{"text": "\xe9"}\n{"text": "cut o'
    )
    rows, ledger = read(written(tmp_path / "a.jsonl", lines))
    assert [(row.line, row.values) for row in rows] == [(1, {"text": "a"}), (4, {"text": 1})]
    assert refused(ledger) == [(5, "no JSON object"), (6, "not UTF-8"), (7, "not JSON")]


def test_an_array_of_json_has_the_numbers_of_its_objects(tmp_path: Path) -> None:
    rows, ledger = read(written(tmp_path / "a.json", '\n[\n{"text": "a"},\n 7,\n{"text": "b"}]'))
    assert [(row.line, row.values["text"]) for row in rows] == [(1, "a"), (3, "b")]
    assert refused(ledger) == [(2, "no JSON object")]


def test_lines_after_one_that_is_an_array_are_read(tmp_path: Path) -> None:
    rows, ledger = read(written(tmp_path / "a.jsonl", '[1]\n{"text": "a"}\n'))
    assert [row.line for row in rows] == [2]
    assert refused(ledger) == [(1, "no JSON object")]


def test_utf_16_is_read_and_damaged_utf_16_is_counted(tmp_path: Path) -> None:
    lines = '{"text": "é"}\n{"text": "ß"}\n'.encode("utf-16")
    rows, _ = read(written(tmp_path / "a.jsonl", lines))
    assert [row.values["text"] for row in rows] == ["é", "ß"]
    rows, ledger = read(written(tmp_path / "b.jsonl", lines[:-1]))
    assert not rows
    assert ledger.rows


def test_a_csv_may_have_quotes_and_line_breaks_in_a_field(tmp_path: Path) -> None:
    text = 'text,label\n"say ""a"",\r\nthen b",x\n\nplain, y\n'
    rows, _ = read(written(tmp_path / "a.csv", text))
    assert [(row.line, row.values) for row in rows] == [
        (2, {"text": 'say "a",\nthen b', "label": "x"}),
        (5, {"text": "plain", "label": " y"}),
    ]


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_the_columns_of_a_csv_may_be_separated_in_other_ways(tmp_path: Path, sign: str) -> None:
    path = written(tmp_path / "a.csv", f"text{sign}label\na,b{sign}c\n")
    assert read(path)[0][0].values == {"text": "a,b", "label": "c"}


def test_torn_records_of_a_csv_are_counted_and_the_next_are_read(tmp_path: Path) -> None:
    text = 'text,label\na,b,c\n"a"b,c\nnull\0,c\nwhole,c\n"never closed,c\nd,e\n'
    rows, ledger = read(written(tmp_path / "a.csv", text))
    assert [row.line for row in rows] == [5]
    assert refused(ledger) == [
        (2, "not CSV"),
        (3, "not CSV"),
        (4, "binary, no text"),
        (6, "not CSV"),
    ]
    assert "up to line 7" in ledger.dropped[-1].detail


def test_long_fields_of_a_csv_leave_the_limit_of_the_process_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    rows, _ = read(written(tmp_path / "a.csv", f"text\n{'x' * 200_000}\n"))
    assert len(rows[0].values["text"]) == 200_000
    assert csv.field_size_limit() == before


def test_latin_1_is_read_and_counted(tmp_path: Path) -> None:
    rows, ledger = read(
        written(tmp_path / "a.csv", b"text\n\xa3 5\nplain\n\x93so\x94\n"),
        written(tmp_path / "b.txt", b"\xa3 5\r\nmore \x81"),
    )
    assert [row.values["text"] for row in rows] == ["£ 5", "plain", "“so”", "£ 5\nmore \x81"]
    assert ledger.notes == {
        "lines of CSV that are not UTF-8, read as Latin-1": 2,
        "texts that are not UTF-8, read as Latin-1": 1,
    }


def test_parquet_has_rows_with_lists_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "a[1].parquet"
    messages = "[{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': NULL}]"
    duckdb.sql(f"SELECT {messages} AS messages, 3 AS label FROM range(2)").write_parquet(str(path))
    rows, _ = read(path)
    assert [row.line for row in rows] == [1, 2]
    assert rows[1].values == {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None},
        ],
        "label": 3,
    }


def test_a_damaged_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a Parquet file must be whole; got .*a\.parquet"):
        read(written(tmp_path / "a.parquet", b"PAR1 and no more"))


def test_texts_of_a_folder_have_their_folder_as_label(tmp_path: Path) -> None:
    written(tmp_path / "sport" / "more" / "2.txt", "b")
    written(tmp_path / "sport" / "1.txt", "a")
    written(tmp_path / "README.md", "about")
    written(tmp_path / "sport" / "3.txt", b"\0\1")
    written(tmp_path / "sport" / "4.png", b"")
    rows, ledger = read(tmp_path)
    assert [row.values for row in rows] == [
        {"text": "about"},
        {"text": "a", "label": "sport"},
        {"text": "b", "label": "sport"},
    ]
    assert refused(ledger) == [(1, "binary, no text")]
    assert ledger.notes == {"files without a text suffix": 1}


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n')
    rows, _ = read(path, tmp_path / "*.jsonl", path)
    assert len(rows) == 1


def test_no_more_rows_than_the_limit_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n' * 5)
    rows, ledger = read(path, limit=3)
    assert len(rows) == 3
    assert ledger.notes == {"sets with more rows than the limit": 1}
    assert not read(path, limit=5)[1].notes


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.jsonl", "every source must be a file"),
        ("a.docx", r"a file of data must end in .*\.jsonl.*; got .*a\.docx"),
        ("records", r"must hold texts; got .* try: name the files themselves: .*b\.parquet"),
        ("empty", r"must hold texts; got .*empty without any"),
        ("twice.csv", "the columns must have different names; got a, a in"),
    ],
)
def test_a_source_that_is_no_data_is_refused(tmp_path: Path, source: str, message: str) -> None:
    written(tmp_path / "a.docx", "a")
    written(tmp_path / "records" / "b.parquet", "b")
    written(tmp_path / "twice.csv", "a,a\n1,2\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        read(tmp_path / source)


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(DataError, match=r"there must be data; .* try: --data FILE"):
        read()


def test_rejects_are_written_with_source_line_and_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n{"text\n')
    _, ledger = read(path)
    ledger.write_rejects(tmp_path / "rejects.jsonl")
    (line,) = (tmp_path / "rejects.jsonl").read_text().splitlines()
    reject = json.loads(line)
    assert reject.pop("detail")
    assert reject == {"source": str(path), "line": 2, "reason": "not JSON", "tokens": 0}
