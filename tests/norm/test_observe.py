"""observe: numbers equal float64 equations, and no hook stays at ticks that are not observed."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metronorm.clock import Clock
from metronorm.errors import ConfigError
from metronorm.models.config import GPTConfig
from metronorm.models.gpt import GPT
from metronorm.norm import AddLayerNorm, AddRMSNorm, LayerNorm, LayerNorm2d, RMSNorm, observe
from metronorm.runs import open_run

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("mean", "std", "rstd", "rstd_max", "gamma", "gamma_min", "gamma_max")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Rows with different means and deviations."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=chance)
    return x * torch.rand((*shape[:-1], 1), generator=chance) + x[..., :1]


def filled(layer: nn.Module) -> nn.Module:
    for seed, value in enumerate(layer.parameters()):
        value.data.copy_(draw(1, value.numel(), seed=seed).reshape(value.shape))
    return layer


def hooks(model: nn.Module) -> int:
    return sum(
        len(found)
        for module in model.modules()
        for name, found in vars(module).items()
        if "_hooks" in name
    )


def equations(layer: Any, rows: Tensor) -> dict[str, float]:
    """The expected numbers for rows, (rows, n), in float64."""
    x = rows.double()
    mean = x.mean(1)
    variance = (x - mean[:, None]).square().mean(1)
    spread = variance if isinstance(layer, nn.LayerNorm) else x.square().mean(1)
    rstd = 1 / (spread + layer.eps).sqrt()
    found = {
        "mean": mean.abs().mean(),
        "std": variance.sqrt().mean(),
        "rstd": rstd.mean(),
        "rstd_max": rstd.max(),
    }
    if layer.weight is not None:
        gamma = layer.weight.detach().double()
        found |= {"gamma": gamma.mean()}
        found |= {"gamma_min": gamma.abs().min(), "gamma_max": gamma.abs().max()}
    return {name: value.item() for name, value in found.items()}


def of_layer(numbers: dict[str, float], layer: str = "0") -> dict[str, float]:
    start = f"norm.{layer}."
    return {name.removeprefix(start): v for name, v in numbers.items() if name.startswith(start)}


def observed(model: nn.Module, *inputs: Any) -> dict[str, float]:
    norms = observe(model, every=1)
    with norms.at(1):
        for x in inputs:
            model(x)
    return norms.numbers()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "layer",
    [
        LayerNorm(6),
        LayerNorm((5, 6), eps=0.1),
        LayerNorm(6, elementwise_affine=False),
        RMSNorm(6, eps=1e-2),
        RMSNorm(6, elementwise_affine=False),
        nn.LayerNorm(6, bias=False),
        nn.RMSNorm(6, eps=1e-3),
        nn.RMSNorm((5, 6), eps=1e-3),
    ],
    ids=str,
)
def test_numbers_equal_their_equations(layer: nn.Module, dtype: torch.dtype) -> None:
    model = nn.Sequential(filled(layer).to(dtype))
    x = draw(4, 5, 6).to(dtype)
    numbers = observed(model, x)
    width = 30 if len(layer.normalized_shape) == 2 else 6
    want = equations(layer, x.reshape(-1, width))
    assert of_layer(numbers) == pytest.approx(want, rel=1e-5)
    assert len(numbers) == (len(NAMES) if any(True for _ in layer.parameters()) else 4)
    assert all(type(value) is float for value in numbers.values())


def test_a_row_of_an_image_is_a_pixel() -> None:
    layer = filled(LayerNorm2d(6))
    x = draw(2, 3, 4, 6)
    numbers = observed(nn.Sequential(layer), x.permute(0, 3, 1, 2))
    assert of_layer(numbers) == pytest.approx(equations(layer, x.reshape(-1, 6)), rel=1e-5)


@pytest.mark.parametrize("eps", [None, 0.25])
def test_eps_of_torchs_rms_norm(eps: float | None) -> None:
    model = nn.Sequential(nn.RMSNorm(6, eps=eps))
    x = draw(4, 6) * 1e-3
    numbers = observed(model, x)
    y = model(x)
    assert numbers["norm.0.rstd"] == pytest.approx((y / x)[:, 0].mean().item(), rel=1e-4)


class Stream(nn.Module):
    """A residual stream with two sub-layers; it keeps the inputs of the norms."""

    def __init__(self, kind: type[AddLayerNorm | AddRMSNorm]) -> None:
        super().__init__()
        self.begin = filled(kind(6))
        self.first = filled(kind(6, dropout=0.5))
        self.second = filled(kind(6))
        self.sums: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        normed, begin = self.begin(x, None)
        normed, first = self.first(normed, begin)
        normed, second = self.second(normed, residual=first)
        self.sums = [begin.detach(), first.detach(), second.detach()]
        return normed


@pytest.mark.parametrize("kind", [AddLayerNorm, AddRMSNorm])
def test_after_a_residual_add_the_sum_is_observed(kind: Any) -> None:
    torch.manual_seed(0)
    model = Stream(kind)
    numbers = observed(model, draw(4, 5, 6))
    for name, summed in zip(("begin", "first", "second"), model.sums, strict=True):
        want = equations(model.get_submodule(name), summed.reshape(-1, 6))
        assert of_layer(numbers, name) == pytest.approx(want, rel=1e-5)


def test_beats_are_weighted_by_their_rows() -> None:
    model = nn.Sequential(filled(LayerNorm(6)))
    beats = [draw(4, 6), draw(9, 6, seed=1) * 5, torch.zeros(0, 6), draw(2, 3, 6, seed=2)]
    numbers = observed(model, *beats)
    rows = torch.cat([beat.reshape(-1, 6) for beat in beats])
    assert of_layer(numbers) == pytest.approx(equations(model[0], rows), rel=1e-5)


def test_gamma_comes_from_the_first_pass() -> None:
    model = nn.Sequential(LayerNorm(6))
    norms = observe(model, every=1)
    with norms.at(1):
        model(draw(4, 6))
        nn.init.zeros_(model[0].weight)
        model(draw(4, 6))
    assert norms.numbers()["norm.0.gamma"] == 1.0


def test_nothing_of_the_graph_is_kept() -> None:
    model = nn.Sequential(nn.Linear(6, 6), LayerNorm(6))
    norms = observe(model, every=1)
    with norms.at(1):
        model(draw(4, 6))
    assert not any(value.requires_grad for value in norms._seen["1"].tensors().values())


def test_a_layer_in_two_places_has_one_name_and_all_rows() -> None:
    layer = RMSNorm(6)
    first, second = draw(4, 6), draw(4, 6) * 3
    model = nn.ModuleList([layer, layer])
    norms = observe(model, every=1)
    with norms.at(1):
        model[0](first)
        model[1](x=second)
    want = equations(layer, torch.cat((first, second)))
    assert of_layer(norms.numbers()) == pytest.approx(want, rel=1e-5)
    assert len(norms.numbers()) == len(NAMES)


def test_a_model_that_is_a_norm_itself() -> None:
    assert set(observed(LayerNorm(6), draw(4, 6))) == {f"norm.{name}" for name in NAMES}


# When ---------------------------------------------------------------------------------------------


def test_hooks_exist_only_at_every_nth_tick() -> None:
    model = nn.Sequential(LayerNorm(6), nn.Linear(6, 6), RMSNorm(6))
    norms = observe(model, every=3)
    assert norms.numbers() == {}
    for tick in range(1, 8):
        with norms.at(tick):
            assert hooks(model) == (4 if tick in (3, 6) else 0)  # torch stores each hook twice
            model(draw(4, 6))
        assert hooks(model) == 0
        assert len(norms.numbers()) == (2 * len(NAMES) if tick in (3, 6) else 0)
        assert norms.numbers() == norms.numbers()


def test_the_default_is_every_hundredth_tick() -> None:
    model = nn.Sequential(LayerNorm(6))
    norms = observe(model)
    seen = []
    for tick in range(1, 301):
        with norms.at(tick):
            model(torch.ones(1, 6))
        if norms.numbers():
            seen.append(tick)
    assert seen == [100, 200, 300]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_error_inside_the_block_removes_all_hooks(error: type[BaseException]) -> None:
    model = nn.Sequential(LayerNorm(6))
    norms = observe(model, every=1)

    def step() -> None:
        with norms.at(1):
            model(draw(4, 6))
            raise error

    with pytest.raises(error):
        step()
    assert hooks(model) == 0
    assert norms.numbers() == {}
    with norms.at(2):
        model(draw(4, 6))
    assert len(norms.numbers()) == len(NAMES)


def test_break_removes_all_hooks() -> None:
    model = nn.Sequential(LayerNorm(6))
    norms = observe(model, every=1)
    for tick in range(3):
        with norms.at(tick):
            model(draw(4, 6))
            break
    assert hooks(model) == 0
    assert len(norms.numbers()) == len(NAMES)


def test_layers_are_looked_up_again_at_every_observed_tick() -> None:
    model = nn.Sequential(nn.LayerNorm(6))
    norms = observe(model, every=1)
    model.append(RMSNorm(6))
    with norms.at(1):
        model(draw(4, 6))
    assert len(norms.numbers()) == 2 * len(NAMES)


# Beside training ----------------------------------------------------------------------------------


def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=20, context=8, layers=2, heads=2, width=8, bias=True))


def test_training_does_not_change_and_the_numbers_are_recorded(tmp_path: Path) -> None:
    model = gpt()
    twin = copy.deepcopy(model)
    tokens = torch.arange(16).reshape(2, 8)
    norms = observe(model, every=2)
    with Clock(tmp_path / "run", progress=False) as clock:
        for tick in clock.ticks(range(1, 5)):
            for made in (model, twin):
                optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
                with norms.at(tick):
                    made(tokens, tokens).backward()
                if made is model:
                    clock.log(**norms.numbers())
                optimizer.step()
                optimizer.zero_grad()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
    rows = open_run(tmp_path / "run").ticks().rows()
    name = "norm.blocks.0.attention_norm.rstd"
    assert [row["tick"] for row in rows if row[name] is not None] == [2, 4]
    assert sum(column.startswith("norm.") for column in rows[0]) == 5 * len(NAMES)


def test_checkpointed_layers_count_the_same() -> None:
    model = nn.Sequential(filled(LayerNorm(6)))
    x = draw(4, 6).requires_grad_()
    norms = observe(model, every=1)
    with norms.at(1):
        checkpoint(model, x, use_reentrant=False).sum().backward()
    assert of_layer(norms.numbers()) == pytest.approx(equations(model[0], x.detach()), rel=1e-5)


def test_under_autocast_and_inference_mode() -> None:
    model = nn.Sequential(nn.Linear(6, 6), LayerNorm(6))
    norms = observe(model, every=1)
    with norms.at(1), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        model(draw(4, 6))
        want = equations(model[1], model[0](draw(4, 6)).clone())
    assert of_layer(norms.numbers(), "1") == pytest.approx(want, rel=1e-5)


def test_compiled_models_are_not_observed(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(LayerNorm(6))
    norms = observe(model, every=1)
    fast = torch.compile(model, backend="eager")
    with caplog.at_level(logging.WARNING, "metronorm"):
        for tick in (1, 2):
            with norms.at(tick):
                fast(draw(4, 6))
            assert norms.numbers() == {}
    assert [record.getMessage() for record in caplog.records] == [
        "no norm of the observed model ran in tick 1; a model compiled by torch.compile "
        "cannot be observed: call the model itself in this tick"
    ]
    with norms.at(3):
        model(draw(4, 6))
    assert len(norms.numbers()) == len(NAMES)


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, -1, True, 1.5, None])
def test_every_is_at_least_one_tick(every: Any) -> None:
    with pytest.raises(ConfigError, match="every must be at least 1 tick; got"):
        observe(nn.LayerNorm(4), every=every)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.BatchNorm1d(4), "gpt"])
def test_a_model_without_norms_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"must hold norm layers .*replace_norms\(model\)"):
        observe(model)


def test_ticks_do_not_nest() -> None:
    norms = observe(nn.LayerNorm(4), every=1)
    with norms.at(1):
        with pytest.raises(ConfigError, match="one tick must end before the next"):
            norms.at(2).__enter__()
        assert norms._handles
