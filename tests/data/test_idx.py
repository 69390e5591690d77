import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from metronorm.data.idx import TYPES, read_idx
from metronorm.errors import DataError

from .idx_files import idx

in_one_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = idx(IMAGES)


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def written(folder: Path, content: bytes, packed: bool) -> Path:
    path = folder / "values-idx"
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def test_the_header_is_that_of_mnist() -> None:
    assert CONTENT[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])


@in_one_folder
@given(
    data=st.data(),
    shape=arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    name=st.sampled_from(sorted(TYPES.values())),
)
def test_what_was_written_is_read(
    tmp_path: Path, packed: bool, data: st.DataObject, shape: tuple[int, ...], name: str
) -> None:
    values = data.draw(arrays.arrays(np.dtype(name), shape))
    read = read_idx(written(tmp_path, idx(values), packed))
    assert read.dtype == values.dtype
    assert read.shape == values.shape
    assert read.tobytes() == values.tobytes()
    assert not read.flags.writeable


def test_a_plain_file_is_mapped_whatever_its_name(tmp_path: Path) -> None:
    plain = tmp_path / "plain.gz"
    plain.write_bytes(CONTENT)
    read = read_idx(str(plain))
    assert isinstance(read, np.memmap)
    assert (read == IMAGES).all()


def test_a_file_larger_than_a_block_is_decompressed_completely(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 1 << 20), dtype=np.uint8)
    assert (read_idx(written(tmp_path, idx(values), packed=True)) == values).all()


@pytest.mark.parametrize("length", range(len(CONTENT)))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, packed: bool, length: int) -> None:
    path = written(tmp_path, CONTENT[:length], packed)
    with pytest.raises(DataError, match=r"must have the length|must begin") as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_compressed_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(CONTENT)
    path = tmp_path / "cut.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.gz"):
            read_idx(path)


@pytest.mark.parametrize("place", [10, -8, -1])
def test_a_compressed_file_with_a_changed_byte_is_refused(tmp_path: Path, place: int) -> None:
    content = bytearray(gzip.compress(CONTENT))
    content[place] ^= 0xFF
    path = tmp_path / "changed.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a compressed idx file must be complete.*changed\.gz"):
        read_idx(path)


def test_a_file_longer_than_its_header_requires_is_refused(tmp_path: Path, packed: bool) -> None:
    with pytest.raises(DataError, match="2 x 3 x 4 of uint8, 24 bytes, and the file has"):
        read_idx(written(tmp_path, CONTENT + b"x", packed))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\0\0\x07\1\0\0\0\1x",  # no such type
        b"\0\1\x08\1\0\0\0\1x",
        b"<!DOCTYPE html>",
    ],
)
def test_another_format_is_refused(tmp_path: Path, packed: bool, content: bytes) -> None:
    with pytest.raises(DataError, match="must begin with two zero bytes and a known type"):
        read_idx(written(tmp_path, content, packed))


def test_a_wrong_size_in_the_header_allocates_no_memory(tmp_path: Path, packed: bool) -> None:
    huge = struct.pack(">BBBB3I", 0, 0, 8, 3, 0xFFFFFFFF, 3, 0x7FFFFFF)
    with pytest.raises(DataError, match="4294967295 x 3 x 134217727 of uint8"):
        read_idx(written(tmp_path, huge, packed))


@pytest.mark.parametrize("sizes", [(1,) * 255, (0, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)])
def test_sizes_that_no_array_can_have_are_refused(
    tmp_path: Path, packed: bool, sizes: tuple[int, ...]
) -> None:
    content = struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    with pytest.raises(DataError, match="sizes that an array can have"):
        read_idx(written(tmp_path, content, packed))


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.*No such file"):
        read_idx(tmp_path / "gone")
    with pytest.raises(DataError, match=r"not a regular file"):
        read_idx(tmp_path)


@pytest.mark.parametrize("name", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="not a regular file"):
        read_idx(tmp_path / name)
