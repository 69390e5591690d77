"""replace_norms: shared layers, `undo`, and what a replacement must not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.norm import LayerNorm, replace_norms

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_shared_layer_stays_shared() -> None:
    shared = nn.LayerNorm(4)
    block = nn.Sequential(shared)
    model = nn.ModuleDict({"a": nn.ModuleList([shared]), "b": block, "c": block, "d": shared})
    state = list(model.state_dict())
    replaced = replace_norms(model)
    assert replaced.swapped == ("a.0", "b.0", "c.0", "d")
    new = model["d"]
    assert isinstance(new, LayerNorm)
    assert all(model.get_submodule(name) is new for name in replaced.swapped)
    assert list(model.state_dict()) == state
    replaced.undo()
    assert all(model.get_submodule(name) is shared for name in replaced.swapped)


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    model[1].weight = model[0].weight
    replace_norms(model)
    assert model[1].weight is model[0].weight


def test_undo_at_the_end_of_a_block_and_a_second_undo_without_effect() -> None:
    model = nn.Sequential(nn.LayerNorm(4))
    old = model[0]
    with replace_norms(model) as replaced:
        assert isinstance(model[0], LayerNorm)
    assert model[0] is old
    model[0] = nn.Identity()
    replaced.undo()
    assert isinstance(model[0], nn.Identity)
    assert repr(replaced) == "<Replacement: 1 norm swapped, 0 skipped>"


def test_undo_keeps_changes_of_parameters_and_mode() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    loaded = {name: torch.full((4,), 3.0) for name in model.state_dict()}
    replaced = replace_norms(model)
    model.load_state_dict(loaded, assign=True)
    model.eval()
    now = list(model.parameters())
    replaced.undo()
    assert all(one is other for one, other in zip(model.parameters(), now, strict=True))
    assert not any(module.training for module in model.modules())


def break_by_another_layer(model: nn.Sequential) -> None:
    model[1] = nn.Identity()


def break_by_deletion(model: nn.Sequential) -> None:
    del model[1]


def break_by_parametrization(model: nn.Sequential) -> None:
    nn.utils.parametrize.register_parametrization(model[1], "weight", nn.ReLU())


@pytest.mark.parametrize(
    "change", [break_by_another_layer, break_by_deletion, break_by_parametrization]
)
def test_undo_changes_nothing_if_a_layer_has_changed(
    change: Callable[[nn.Sequential], None],
) -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    replaced = replace_norms(model)
    change(model)
    with pytest.raises(ConfigError, match="be in its place, with its parameters; got 1 "):
        replaced.undo()
    assert isinstance(model[0], LayerNorm)


def test_a_second_replacement_leaves_our_layers() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    replace_norms(model)
    layers = list(model)
    assert str(replace_norms(model)) == "0 norms swapped, 2 skipped: 0 and 1 more (already ours)"
    assert list(model) == layers


# What a replacement must not change ---------------------------------------------------------------


class Counting(nn.LayerNorm):
    """A norm that records calls of the module itself."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def test_the_probe_changes_neither_the_layer_nor_the_generator() -> None:
    model = nn.Sequential(Counting(4))
    old, weight = model[0], model[0].weight.clone()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert replace_norms(model).swapped == ("0",)
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(old).get("calls") is None
    assert torch.equal(old.weight, weight)
    assert old.weight.grad is None


class ByProducts(nn.LayerNorm):
    """A norm with a matrix product, which autocast would compute in 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ torch.eye(4, device=x.device, dtype=x.dtype))


def test_defaults_and_autocast_around_do_not_matter() -> None:
    model = nn.Sequential(nn.LayerNorm(4), ByProducts(4))
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.inference_mode():
        replaced = replace_norms(model)
    assert len(replaced.swapped) == 2, replaced
    model(torch.ones(2, 4)).sum().backward()


def test_weights_that_are_not_finite_prevent_nothing() -> None:
    model = nn.Sequential(Counting(4))
    nn.init.constant_(model[0].weight, torch.nan)
    assert replace_norms(model).swapped == ("0",)
