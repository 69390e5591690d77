"""save="output": when it is possible, what is kept, and what happens after in-place changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.norm import AddLayerNorm, LayerNorm, LayerNorm2d, RMSNorm, layer_norm
from metronorm.norm.output import can_save_output
from tests.norm.inputs import BF16, KINDS, SAVES, Kind, apply, check, draw, draw_affine, draw_x


@pytest.mark.parametrize(
    ("weight", "bias", "answer"),
    [
        ([1.0, -1.0], None, True),
        ([1.0, 1e-3], None, True),
        ([1.0, 0.9e-3], None, False),
        ([1.0, -0.9e-3], None, False),
        ([1.0, 0.0], [0.0, 0.0], False),
        ([1.0, 2.0], [4.0, -8.0], True),
        ([1.0, 2.0], [4.1, 0.0], False),
        ([1.0, 2.0], [0.0, -8.1], False),
        ([1.0, float("nan")], None, False),
        ([1.0, 1.0], [0.0, float("nan")], False),
        (None, None, True),
        (None, [0.0, 0.0], False),
    ],
)
def test_when_it_is_possible(weight: Any, bias: Any, answer: bool) -> None:
    given = [None if value is None else torch.tensor(value) for value in (weight, bias)]
    assert can_save_output(*given) is answer
    with torch.no_grad():
        assert not can_save_output(*given)


def kept(call: Any) -> list[Tensor]:
    """The tensors that autograd keeps."""
    found = []

    def pack(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return found


@pytest.mark.parametrize("layer", [LayerNorm(6), RMSNorm(6), LayerNorm(6, save="output")])
def test_the_output_is_kept_instead_of_the_input(backend: str, layer: Any) -> None:
    x = draw_x((3, 6)).requires_grad_()
    found = []
    saved = {tensor.data_ptr() for tensor in kept(lambda: found.append(layer(x)))}
    assert (x.data_ptr() in saved) == (layer.save == "input")
    assert (found[0].data_ptr() in saved) == (layer.save == "output")


@pytest.mark.parametrize("save", SAVES)
def test_the_sum_is_kept_or_the_output(backend: str, save: Any) -> None:
    x, residual = draw_x((3, 6)).requires_grad_(), draw_x((3, 6), seed=4)
    layer, found = AddLayerNorm(6, save=save, dropout=0.5), []
    saved = kept(lambda: found.extend(layer(x, residual)))
    memory = {tensor.data_ptr() for tensor in saved}
    assert [each.data_ptr() in memory for each in found] == [save == "output", save == "input"]
    assert not {x.data_ptr(), residual.data_ptr()} & memory
    assert sum(tensor.numel() for tensor in saved) < 2 * x.numel() + 20  # and no mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1e-6])
def test_weights_too_small_to_divide_by(backend: str, size: float, kind: Kind) -> None:
    weight, _ = draw_affine((17,))
    weight[3] = size
    x, dy = draw_x((5, 17)), draw((5, 17), seed=7)
    results = []
    for save in SAVES:
        x.grad = weight.grad = None
        apply(kind, x.requires_grad_(), weight.requires_grad_(), save=save).backward(dy)
        results.append((x.grad, weight.grad))
    assert all(map(torch.equal, *results))


def step_of_an_optimizer(layer: LayerNorm) -> None:
    optimizer = torch.optim.SGD([layer.weight], lr=1.0)
    layer.weight.grad = layer.weight.detach().clone()
    optimizer.step()


def in_place(layer: LayerNorm) -> None:
    with torch.no_grad():
        layer.weight[3] = 0.0


def initialized(layer: LayerNorm) -> None:
    nn.init.zeros_(layer.weight)


def loaded(layer: LayerNorm) -> None:
    layer.load_state_dict({"weight": torch.zeros(6), "bias": torch.ones(6)})


def loaded_by_assignment(layer: LayerNorm) -> None:
    state = {"weight": torch.zeros(6), "bias": torch.ones(6)}
    layer.load_state_dict(state, assign=True)


def replaced(layer: LayerNorm) -> None:
    layer.weight = nn.Parameter(torch.zeros(6))


def bias_replaced(layer: LayerNorm) -> None:
    layer.weight.requires_grad_(False)
    layer.bias = nn.Parameter(torch.full((6,), 1e9))


def by_data(layer: LayerNorm) -> None:
    layer.weight.data[3] = 0.0


def other_data(layer: LayerNorm) -> None:
    layer.weight.data = torch.zeros(6)


def bias_by_data(layer: LayerNorm) -> None:
    layer.bias.data.fill_(1e9)


@pytest.mark.parametrize(
    "change",
    [
        step_of_an_optimizer,
        in_place,
        initialized,
        loaded,
        loaded_by_assignment,
        replaced,
        bias_replaced,
        by_data,
        other_data,
        bias_by_data,
    ],
)
def test_changed_parameters_are_read_again(change: Any) -> None:
    layer, x = LayerNorm(6, save="output"), draw_x((3, 6)).requires_grad_()
    layer(x).sum().backward()
    change(layer)
    layer.zero_grad()
    x.grad = None
    layer(x).backward(draw((3, 6), seed=7))
    got = [x.grad, layer.weight.grad]
    want_x = x.detach().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_(layer.weight.requires_grad)
    y = layer_norm(want_x, 6, weight, layer.bias.detach().clone())
    y.backward(draw((3, 6), seed=7))
    for ours, theirs in zip(got, (want_x.grad, weight.grad), strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


def test_an_answer_is_not_reused_for_other_parameters() -> None:
    for _ in range(50):  # new parameters may get the memory of old ones
        weight = torch.ones(6)
        assert can_save_output(weight, None)
        del weight
        assert not can_save_output(torch.zeros(6), None)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_the_limit_are_precise_enough(backend: str, kind: Kind) -> None:
    weight = torch.full((33,), 1e-3)
    weight[::2] *= -500
    bias = weight * 4 if kind == "layer_norm" else None
    for dtype in (torch.float32, BF16):
        check(kind, draw_x((7, 33), dtype), weight, bias, save="output")


@pytest.mark.parametrize("save", SAVES)
def test_writing_to_a_kept_tensor_raises_an_error(backend: str, save: Any) -> None:
    layer = LayerNorm(6, save=save)
    for written, refused in (("x", save == "input"), ("y", save == "output")):
        leaf = draw_x((3, 6)).requires_grad_()
        x = leaf * 1
        y = layer(x)
        loss = y.sum()
        {"x": x, "y": y}[written].mul_(2)
        if refused:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        else:
            loss.backward()
            assert leaf.grad is not None


def test_writing_to_the_output_is_differentiated(backend: str) -> None:
    x = draw_x((3, 6)).requires_grad_()
    y = LayerNorm(6)(x)
    y.mul_(torch.arange(6.0))
    y.sum().backward()
    got, x.grad = x.grad, None
    (LayerNorm(6)(x) * torch.arange(6.0)).sum().backward()
    assert torch.equal(got, x.grad)


@pytest.mark.parametrize("save", SAVES)
def test_writing_to_an_image_that_was_kept(backend: str, save: Any) -> None:
    leaf = draw_x((2, 6, 3, 3)).requires_grad_()
    y = LayerNorm2d(6, save=save)(leaf)
    y.mul_(2)
    if save == "output":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    else:
        y.sum().backward()
        assert leaf.grad is not None


@pytest.mark.parametrize("save", SAVES)
def test_writing_to_the_results_of_an_add(backend: str, save: Any) -> None:
    layer = AddLayerNorm(6, save=save)
    for at in (0, 1):
        x, residual = (draw_x((3, 6), seed=seed).requires_grad_() for seed in (0, 4))
        found = layer(x, residual)
        loss = found[0].sum() + found[1].sum()
        found[at].mul_(2)
        if (save == "output") == (at == 0):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        else:
            loss.backward()
            assert x.grad is not None
