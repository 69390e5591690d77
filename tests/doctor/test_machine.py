"""What Linux says of a machine, read from files as it writes them."""

from pathlib import Path

import pytest

from metronorm.doctor import machine

X86 = """\
processor	: 0
model name	: Some CPU
flags		: fpu fma avx2 f16c avx512f avx512bw avx512_bf16 amx_bf16 amx_tile
"""
ARM = "processor	: 0\nFeatures	: fp asimd sve i8mm bf16\n"


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        (X86, ["AVX2", "AVX-512", "AVX-512 bf16", "AMX", "AMX bf16"]),
        (ARM, ["Neon", "SVE", "bf16", "int8 matrices"]),
        ("processor : 0\n", None),
    ],
)
def test_instruction_sets(tmp_path: Path, text: str, sets: list[str] | None) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert machine.instruction_sets(file) == sets


def test_instruction_sets_where_there_is_no_such_file(tmp_path: Path) -> None:
    assert machine.instruction_sets(tmp_path / "none") is None


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    inner = tmp_path / "my disk"
    inner.mkdir()
    mounts = tmp_path / "mounts"
    name = str(inner).replace(" ", "\\040")
    mounts.write_text(
        f"/dev/a / ext4 rw 0 0\nserver:/x {name} nfs4 rw 0 0\nb {inner}er xfs rw 0 0\n"
    )
    assert machine.file_system(inner, mounts) == "nfs4"
    assert machine.file_system(tmp_path, mounts) == "ext4"
    assert machine.file_system(tmp_path, tmp_path / "none") is None


def test_a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above(tmp_path: Path) -> None:
    found = machine.disk(tmp_path / "a" / "b")
    assert found["folder"] == str(tmp_path)
    assert 0 <= found["free_bytes"] <= found["total_bytes"]


def test_this_machine_can_be_read() -> None:
    assert machine.cpu()["usable_cores"] >= 1
    assert (machine.memory()["total_bytes"] or 0) > 0
    assert machine.shared_memory()["writable"]
