"""LoRA: PEFT's numbers, without PEFT's copies of inputs, saved as PEFT loads it."""

from __future__ import annotations

import copy
import math
import warnings
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from metronorm.errors import ConfigError
from metronorm.finetune.adapting import Adapted, adapt
from metronorm.finetune.exporting import peft_config, save_adapter
from metronorm.finetune.lora import LoraLinear, _AddTerm, add_lora, lora_layers
from metronorm.finetune.ways import AdaptConfig
from metronorm.norm import replace_norms
from metronorm.train.parallel import layers_of, recompute
from tests.finetune.adapting import disturb, logits, loss, pretrained, rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from metronorm.finetune.ways import Body

RANK, ALPHA = 4, 6.0
HALF_BODIES: list[Body] = ["fp32", "bf16"]


def adapted(name: str, directory: Path, body: Body = "fp32", dropout: float = 0.0) -> Adapted:
    made = adapt(
        pretrained(name, directory),
        AdaptConfig(way="lora", body=body, rank=RANK, alpha=ALPHA, dropout=dropout),
    )
    disturb(made.parameters().values())
    return made


def with_peft(base: nn.Module, made: Adapted) -> Any:
    """The same model with PEFT's adapters, which have the same weights."""
    config = peft_config(made)
    config.inference_mode = False
    config.base_model_name_or_path = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(base, config)
    ours = made.parameters()
    with torch.no_grad():
        for name, each in theirs.named_parameters():
            if each.requires_grad:
                each.copy_(ours[our_name(name)])
    return theirs


def our_name(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    return name.removesuffix(".default.weight")


def plain_base(made: Adapted, directory: Path, name: str) -> Any:
    """The base model anew, with the norms and dtypes that `made` has."""
    base = pretrained(name, directory / "again").model
    replace_norms(base)
    ours = dict(made.pretrained.model.named_parameters())
    for key, each in base.named_parameters():
        each.data = each.data.to(ours[key].dtype)
    return base


def loss_and_gradients(model: Any, autocast: bool = False) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(model)
    value.backward()
    slopes = {our_name(key): v.grad for key, v in model.named_parameters() if v.requires_grad}
    return [value.detach(), *(slopes[key] for key in sorted(slopes))]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_loss_and_gradients_are_those_of_peft(name: str, tmp_path: Path) -> None:
    made = adapted(name, tmp_path)
    theirs = with_peft(plain_base(made, tmp_path, name), made)
    got = loss_and_gradients(made.pretrained.model.double())
    want = loss_and_gradients(theirs.double())
    assert len(got) == len(want) == len(made.parameters()) + 1
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("body", ["fp32", "bf16"])
def test_in_half_precision_gradients_are_as_near_as_those_of_peft(
    name: str, body: Body, tmp_path: Path
) -> None:
    """With a float32 body under autocast, and with a bfloat16 one."""
    made = adapted(name, tmp_path, body)
    model = made.pretrained.model
    theirs = with_peft(plain_base(made, tmp_path, name), made)
    if body == "bf16" and name == "bert":  # PEFT's head is not for a bfloat16 body
        theirs.base_model.model.classifier.modules_to_save.default.register_forward_pre_hook(
            lambda module, given: (given[0].float(),)
        )
    ours = loss_and_gradients(model, autocast=body == "fp32")
    others = loss_and_gradients(theirs, autocast=body == "fp32")
    assert [each.dtype for each in ours] == [each.dtype for each in others]
    exact = loss_and_gradients(model.double())

    def error(found: list[Tensor]) -> float:
        squares = [
            float((one - other).square().sum() / other.square().sum())
            for one, other in zip(found, exact, strict=True)
        ]
        return math.sqrt(sum(squares) / len(squares))

    assert error(ours) < max(1.5 * error(others), 1e-3)


def test_derivatives_of_the_term() -> None:
    torch.manual_seed(0)
    y, x, a, b = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 5), (2, 3, 4), (2, 4), (5, 2))
    )

    def term(*tensors: Tensor) -> Any:
        return _AddTerm.apply(*tensors, 0.7, torch.float64)

    torch.testing.assert_close(term(y, x, a, b), y + 0.7 * x @ a.T @ b.T)
    assert torch.autograd.gradcheck(term, (y, x, a, b))
    assert torch.autograd.gradgradcheck(term, (y, x, a, b))


def test_a_bfloat16_sum_is_rounded_once() -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 32).to(torch.bfloat16)
    layer = LoraLinear(base, RANK, ALPHA)
    disturb([layer.lora_B])
    x = torch.randn(7, 64, dtype=torch.bfloat16)
    term = (x.double() @ layer.lora_A.double().T @ layer.lora_B.double().T) * layer.scale
    rounded = (base(x).double() + term).to(torch.bfloat16)
    got = layer(x)
    assert got.dtype == torch.bfloat16
    assert (got == rounded).float().mean() > 0.99  # but for the rounding of float32


def saved_bytes(model: Any, run: Callable[[], Tensor]) -> int:
    """Bytes that the graph keeps, beside the model's parameters and buffers."""
    held = {each.untyped_storage().data_ptr() for each in model.parameters()}
    held |= {each.untyped_storage().data_ptr() for each in model.buffers()}
    seen: dict[int, int] = {}
    kept = []  # alive, so that no memory is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        found = run()
    found.backward()
    return sum(seen.values())


def test_the_graph_keeps_no_float32_copy_of_inputs(tmp_path: Path) -> None:
    made = adapted("llama", tmp_path, body="bf16")
    model = made.pretrained.model
    base = copy.deepcopy(model)
    for name in lora_layers(base):
        layer = base.get_submodule(name)
        linear = nn.Linear(layer.in_features, layer.out_features, bias=False)
        linear.weight = layer.weight
        base.get_submodule(name.rpartition(".")[0]).add_module(name.rpartition(".")[2], linear)
    theirs = with_peft(base, made)  # on the same norms
    ours = saved_bytes(model, lambda: loss(model))
    peft_bytes = saved_bytes(theirs, lambda: loss(theirs))
    positions = sum(len(row) for row in rows())
    inputs = sum(layer.in_features for layer in lora_layers(model).values())
    # PEFT keeps the input of each layer in float32. Ours keeps what the layers share in bfloat16:
    # the inputs of q, k and v, of o, of gate and up, and of down.
    layers = len(lora_layers(model)) // 7
    shared = (32 + 32 + 32 + 48) * 2 * positions * layers
    assert peft_bytes - ours >= inputs * 4 * positions - shared


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_gradients_under_checkpointing(name: str, tmp_path: Path) -> None:
    made = adapted(name, tmp_path, body="bf16")
    model = made.pretrained.model
    model.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            recompute(layers_of(model))
        model.zero_grad()
        loss(model).backward()
        found.append([each.grad for each in made.parameters().values()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_new_term_changes_nothing_and_keeps_names_and_parameters(tmp_path: Path) -> None:
    model = pretrained("llama", tmp_path).model
    before, state = logits(model), model.state_dict(keep_vars=True)
    add_lora(model, RANK, ALPHA, skip=[model.lm_head])
    assert torch.equal(logits(model), before)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is value for name, value in state.items())
    assert len(lora_layers(model)) == 14
    assert all(layer.scale == ALPHA / math.sqrt(RANK) for layer in lora_layers(model).values())
    assert isinstance(model.lm_head, nn.Linear)
    with pytest.raises(ConfigError, match="adapted once"):
        add_lora(model, RANK, ALPHA)


def test_dropout_is_of_training_alone_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(64, 8), RANK, ALPHA, dropout=0.5)
    disturb([layer.lora_B])
    x = torch.randn(1, 64)
    layer.eval()
    want = layer(x)
    assert torch.equal(layer(x), want)
    layer.train()
    seen = layer(x.expand(20_000, 64)).detach()
    assert seen.std(0).min() > 0
    error = (seen.mean(0) - want[0]).abs() / (seen.std(0) / math.sqrt(len(seen)))
    assert error.max() < 5


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "modernbert"])
@pytest.mark.parametrize("body", HALF_BODIES)
def test_peft_loads_what_was_saved(name: str, body: Body, tmp_path: Path) -> None:
    made = adapted(name, tmp_path, body)
    save_adapter(made, tmp_path / "saved")
    base = plain_base(made, tmp_path, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # by peft
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "saved")
    made.pretrained.model.float().eval()
    got = logits(theirs.float().eval())
    torch.testing.assert_close(got, logits(made.pretrained.model))


def test_a_layer_whose_name_others_share_is_saved_by_its_whole_name(tmp_path: Path) -> None:
    made = adapted("bert", tmp_path)
    model = made.pretrained.model
    assert peft_config(made).target_modules >= {"query", "key", "value"}
    layer = model.bert.encoder.layer[0].attention.self.key
    plain = nn.Linear(layer.in_features, layer.out_features)
    model.bert.encoder.layer[0].attention.self.key = plain
    names = peft_config(made).target_modules
    assert "bert.encoder.layer.1.attention.self.key" in names
    assert "bert.encoder.layer.0.attention.self.key" not in names


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs linear layers"):
        add_lora(nn.Sequential(nn.Conv1d(3, 3, 1)), RANK, ALPHA)


def test_a_rank_above_that_of_every_layer_is_refused() -> None:
    layers = [nn.Linear(3, 8), nn.Linear(8, 5)]
    assert add_lora(nn.Sequential(*layers), 5, ALPHA) == ["0", "1"]
    for rank in (6, 10**14):
        with pytest.raises(ConfigError, match=r"where the widest layer has rank 5; try: --rank"):
            add_lora(nn.Sequential(*layers), rank, ALPHA)
