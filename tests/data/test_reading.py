import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metronorm.data import reading
from metronorm.data.reading import character_start, cut_near, digest_of, read_text
from metronorm.errors import DataError

in_one_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
texts = st.text(st.sampled_from("ab\r\n é漢🎵\ufeff"), min_size=1)


def whole(path: Path) -> str:
    return "".join(read_text(path, 0, path.stat().st_size))


@in_one_folder
@given(text=texts, block=st.integers(1, 9))
def test_any_block_size_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, block: int
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", max(block, 3))  # a BOM comes in one block
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert whole(path) == text.removeprefix("\ufeff").replace("\r\n", "\n")


def test_only_the_bytes_asked_for_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("één\ntwee\n".encode())
    assert "".join(read_text(path, 6, 11)) == "twee\n"


@pytest.mark.parametrize("block", [3, 16, 1 << 16])
@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"one\ntwo\xff three", "byte 0xff at offset 7 .* \\(line 2"),
        (b"\xef\xbb\xbfone\n\n\xe4\xb8", "byte 0xe4 at offset 8 .* \\(line 3"),
        (b"\xc3\xa9\xc3\xa9 \xc3(", "byte 0xc3 at offset 5 .* \\(line 1"),
        (b"\xed\xa0\x80", "byte 0xed at offset 0 .* \\(line 1"),
    ],
)
def test_the_error_for_a_bad_byte_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, where: str, block: int
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", block)
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=where) as caught:
        whole(path)
    assert "bad.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF\0\0", "binary"),
        ("text".encode("utf-16"), "UTF-16"),
        ("text".encode("utf-16-le"), "binary"),
    ],
)
def test_a_binary_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "binary"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        whole(path)


def test_a_file_that_was_removed_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_text(tmp_path / "gone", 0, 5))


@in_one_folder
@given(text=texts, where=st.floats(0, 1), slack=st.integers(0, 30), block=st.integers(1, 9))
def test_a_cut_is_near_the_goal_after_a_line_feed_or_a_space_or_before_a_character(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    where: float,
    slack: int,
    block: int,
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", block)
    content = text.encode()
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    goal = int(where * (len(content) - 1))
    cut = cut_near(path, goal, len(content), slack=slack)
    content[:cut].decode()
    content[cut:].decode()
    for sign in b"\n ":
        places = [i + 1 for i, byte in enumerate(content[:-1]) if byte == sign]
        later = [at for at in places if goal < at <= goal + slack]
        earlier = [at for at in places if goal - slack < at <= goal]
        if later or earlier:
            assert cut == (later[0] if later else earlier[-1])
            return
    if len(text) > 1 and goal > 0:
        assert 0 < cut < len(content)
        assert abs(cut - goal) < 4


def test_character_starts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("a漢b🎵".encode())  # starts at 0, 1, 4, 5; 9 bytes
    assert [character_start(path, i, 9) for i in range(10)] == [0, 1, 4, 4, 4, 5, 5, 5, 5, 9]


@in_one_folder
@given(text=texts, block=st.integers(1, 9))
def test_the_digest_is_that_of_the_text_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, block: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 16)
    read = whole(path)
    monkeypatch.setattr(reading, "BLOCK_BYTES", block)
    assert digest_of(path) == hashlib.sha256(read.encode()).digest()
