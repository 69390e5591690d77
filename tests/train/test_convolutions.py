"""Convolutions in bf16 beside fp32: what is found of a model's, and what a training does then."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from metronorm.runs import open_run
from metronorm.train import Task, TrainConfig, convolutions, preparing, train
from metronorm.train.convolutions import LARGEST_ERROR, Checked, check_convolutions


class Convolutions(nn.Module):
    """Three that differ, one of them twice, and one that is called as a function."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 2, stride=2)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.transposed = nn.ConvTranspose2d(4, 2, 3, stride=3)
        self.kernel = nn.Parameter(torch.randn(3, 2, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.deep(self.deep(self.first(images)))
        return F.conv2d(self.transposed(x), weight=self.kernel, stride=(1, 1))


def test_each_different_convolution_is_compared_once() -> None:
    model, images = Convolutions(), torch.randn(5, 1, 8, 8)
    found = check_convolutions(lambda: model(images))
    assert found.number == 4
    assert 0 < found.error < 2**-6, "bf16 has eight bits"
    assert found.are_right
    assert found.where.startswith("conv")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_convolutions_is_right() -> None:
    found = check_convolutions(lambda: nn.Linear(2, 2)(torch.ones(1, 2)))
    assert (found, found.are_right) == (Checked(0, 0.0, ""), True)


@pytest.mark.parametrize("fault", ["output", "gradient", "nan"])
def test_a_kernel_that_is_wrong_in_bf16_is_found(fault: str) -> None:
    """Half of the output, or of what goes back to the weight, is lost in bf16 alone."""

    def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        half = x.dtype == torch.bfloat16
        if half and fault == "gradient":
            weight = torch.cat([weight[:2], weight[2:].detach()])
        output = F.conv2d(x, weight)
        if half and fault != "gradient":
            output = torch.cat(
                [output[:, :2], output[:, 2:] * (0 if fault == "output" else math.nan)], 1
            )
        return output

    torch.manual_seed(0)
    error = convolutions._error(convolve, (torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)), {})
    assert not error <= LARGEST_ERROR
    assert not Checked(1, error, "conv2d").are_right


def task() -> Task:
    torch.manual_seed(1)
    batch = torch.randn(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)
    return Task(
        model=lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2)),
        batches=[batch] * 4,
        loss=lambda model, given: F.cross_entropy(model(given[0]), given[1], reduction="sum"),
        count=lambda given: len(given[1]),
    )


def machine(run: Path) -> dict[str, Any]:
    rows = open_run(run).events().rows()
    found: dict[str, Any] = json.loads(
        *(row["fields"] for row in rows if row["event"] == "machine")
    )
    return found


@pytest.mark.parametrize("right", [True, False])
def test_bf16_is_chosen_only_where_it_is_right(
    right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preparing.precision, "choose_precision", lambda *args: "bf16")
    if not right:
        monkeypatch.setattr(convolutions, "_error", lambda *args: 0.7)
    config = TrainConfig(ticks=2, batch_size=4, device="cpu", allocator="system")
    with caplog.at_level(logging.WARNING, logger="metronorm"):
        train(task(), config, tmp_path / "run")
    fields = machine(tmp_path / "run")
    assert fields["precision"] == ("bf16" if right else "fp32")
    assert fields["convolutions"] == 1
    assert (fields["convolution_error"] < LARGEST_ERROR) == right
    wrong = [each.getMessage() for each in caplog.records if "wrong numbers" in each.getMessage()]
    assert len(wrong) == (not right)
    if not right:
        assert "conv2d(4 x 1 x 6 x 6" in wrong[0]
        assert "fp32 is used" in wrong[0]


def test_who_asks_for_bf16_is_told_where_it_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(convolutions, "_error", lambda *args: math.nan)
    config = TrainConfig(ticks=1, batch_size=4, device="cpu", allocator="system", precision="bf16")
    with caplog.at_level(logging.WARNING, logger="metronorm"):
        train(task(), config, tmp_path / "run")
    assert machine(tmp_path / "run")["precision"] == "bf16"
    assert "--precision fp32" in caplog.text


def test_fp32_is_not_looked_at(tmp_path: Path) -> None:
    config = TrainConfig(ticks=1, batch_size=4, device="cpu", allocator="system", precision="fp32")
    train(task(), config, tmp_path / "run")
    assert "convolutions" not in machine(tmp_path / "run")
