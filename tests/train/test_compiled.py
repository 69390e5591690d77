"""`--compile` on several processes: what is compiled, and the same losses as on one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .fault_task import options
from .forked_ranks import Launch, Ranks, same
from .test_world import record

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

ROUNDING = 1e-12


def test_compiled_layers_give_the_same_losses_on_any_number_of_processes(
    ranks: Ranks, tmp_path: Path
) -> None:
    records = []
    for name, processes in (("ddp", 1), ("ddp", 2), ("fsdp", 2)):
        run = tmp_path / f"{name}-{processes}"
        more = {"parallel": name, "kind": "compiled", "evaluate_every": "3"}
        words = ["train", "--compile", *options(run=str(run), **more)]
        said = str(tmp_path / f"said-{name}-{processes}")
        ended = ranks.run(Launch(same(words, processes), said))
        assert ended.codes == [0] * processes, "\n".join(ended.said)
        records.append(record(run))
    alone, *others = records
    assert [len(each) for each in records] == [6, 6, 6]
    for found in others:
        for ours, theirs in zip(found, alone, strict=True):
            assert ours.keys() == theirs.keys()
            assert ours == {
                name: pytest.approx(value, rel=ROUNDING, abs=ROUNDING)
                for name, value in theirs.items()
            }
