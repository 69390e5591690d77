"""What `train._torch_private` assumes of torch: another version may not hold to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import distributed

from metronorm.train._torch_private import default_store, part_of_store

if TYPE_CHECKING:
    from pathlib import Path


def test_the_store_of_the_default_group_is_the_one_it_was_made_with(tmp_path: Path) -> None:
    kept = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=kept, rank=0, world_size=1)
    try:
        part = part_of_store(default_store(), "part")
        part.set("key", "value")
        assert part_of_store(default_store(), "part").get("key") == b"value"
        assert not default_store().check(["key"])
    finally:
        distributed.destroy_process_group()
