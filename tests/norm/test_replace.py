"""replace_norms in models of transformers: what is replaced, and that only the speed changes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.norm import (
    LayerNorm,
    RMSNorm,
    observe,
    replace_norms,
)

if TYPE_CHECKING:
    from metronorm.norm.checks import Save

Inputs = dict[str, Tensor]

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 4}
GPT2_SIZES = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
T5_SIZES = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 1,
    "num_heads": 4,
    "dropout_rate": 0.0,
}
VIT_SIZES = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "intermediate_size": 24}
CONVNEXT_SIZES = {"patch_size": 2, "num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 1]}

# Class of the model, its config, and its number of norms.
EQUAL: list[tuple[str, str, dict[str, Any], int]] = [
    ("LlamaForCausalLM", "LlamaConfig", GROUPED, 5),
    ("MistralForCausalLM", "MistralConfig", GROUPED, 5),
    ("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"num_key_value_heads": 2}, 5),
    (
        "Qwen3ForCausalLM",
        "Qwen3Config",
        GROUPED,
        9,
    ),  # norms of queries and keys: 4 axes
    ("CohereForCausalLM", "CohereConfig", GROUPED, 3),
    ("GPT2LMHeadModel", "GPT2Config", GPT2_SIZES, 5),
    ("BertModel", "BertConfig", SIZES, 5),
    ("DebertaModel", "DebertaConfig", SIZES, 5),
    ("AlbertModel", "AlbertConfig", SIZES | {"embedding_size": 8}, 3),
    ("T5ForConditionalGeneration", "T5Config", T5_SIZES, 7),
    ("ViTModel", "ViTConfig", VIT_SIZES | {"num_hidden_layers": 2, "num_attention_heads": 4}, 5),
    ("ConvNextModel", "ConvNextConfig", CONVNEXT_SIZES, 5),
]
OTHER = "computes something else than a layer or RMS norm"
LEFT: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GemmaForCausalLM", "GemmaConfig", GROUPED, 5, OTHER),
    ("Gemma2ForCausalLM", "Gemma2Config", GROUPED, 9, OTHER),
    ("NemotronForCausalLM", "NemotronConfig", GROUPED, 5, OTHER),  # 1 + weight, inside torch's
    ("OlmoForCausalLM", "OlmoConfig", GROUPED, 5, "has no weight of its own"),
]


def build(model: str, config: str, sizes: dict[str, Any]) -> nn.Module:
    """A model with norms that are not new, in training mode and without dropout."""
    torch.manual_seed(0)
    made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**sizes))
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for value in made.parameters():
        if value.dim() == 1:
            nn.init.normal_(value, mean=1.0, std=0.3)
    return made


def inputs(model: nn.Module, dtype: torch.dtype = torch.float32) -> Inputs:
    chance = torch.Generator().manual_seed(1)
    if hasattr(model.config, "image_size"):
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=chance).to(dtype)}
    tokens = torch.randint(1, 40, (2, 7), generator=chance)
    more = {"decoder_input_ids": tokens} if isinstance(model.config, transformers.T5Config) else {}
    return {"input_ids": tokens} | more


def run(model: nn.Module, given: Inputs) -> tuple[Tensor, list[Tensor | None]]:
    """The first output, and the gradients of its mean square."""
    model.zero_grad()
    output: Tensor = model(**given)[0]
    output.double().square().mean().backward()
    return output.detach(), [value.grad for value in model.parameters()]


def assert_close(got: Any, want: Any, tolerance: float) -> None:
    """Errors are relative to the largest number of all."""
    largest = max(value.abs().max().item() for value in want if value is not None)
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize(("model", "config", "sizes", "count"), EQUAL, ids=[m[0] for m in EQUAL])
def test_output_gradients_and_state_do_not_change(
    model: str, config: str, sizes: dict[str, Any], count: int
) -> None:
    made = build(model, config, sizes)
    given = inputs(made)
    want, slopes = run(made, given)
    modules, state = dict(made.named_modules()), made.state_dict()
    parameters = list(made.named_parameters())

    replaced = replace_norms(made)
    assert str(replaced) == f"{count} norms swapped, 0 skipped"
    for name in replaced.swapped:
        assert isinstance(made.get_submodule(name), LayerNorm | RMSNorm)
    assert list(made.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    now = list(made.named_parameters())
    assert [name for name, _ in now] == [name for name, _ in parameters]
    assert all(one is other for (_, one), (_, other) in zip(now, parameters, strict=True))
    got, new_slopes = run(made, given)
    assert_close([got], [want], 1e-5)
    assert_close(new_slopes, slopes, 1e-5)

    replaced.undo()
    assert {name: id(module) for name, module in made.named_modules()} == {
        name: id(module) for name, module in modules.items()
    }
    assert torch.equal(run(made, given)[0], want)


@pytest.mark.parametrize(
    ("model", "config", "sizes", "count", "why"), LEFT, ids=[m[0] for m in LEFT]
)
def test_a_norm_by_name_only_is_left(
    model: str, config: str, sizes: dict[str, Any], count: int, why: str
) -> None:
    made = build(model, config, sizes)
    replaced = replace_norms(made)
    assert replaced.swapped == ()
    assert len(replaced.skipped) == count
    assert set(replaced.skipped.values()) == {why}
    assert str(replaced) == (
        f"0 norms swapped, {count} skipped: {next(iter(replaced.skipped))} "
        f"and {count - 1} more ({why})"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("at", [0, 5, 9, 11], ids=lambda at: EQUAL[at][0])
def test_models_of_other_dtypes(at: int, dtype: torch.dtype) -> None:
    model, config, sizes, count = EQUAL[at]
    made = build(model, config, sizes).to(dtype)
    given = inputs(made, dtype)
    want, _ = run(made, given)
    replaced = replace_norms(made)
    assert len(replaced.swapped) == count, replaced
    got, _ = run(made, given)
    tolerance = {torch.bfloat16: 4e-2, torch.float16: 5e-3, torch.float64: 1e-6}[dtype]
    assert_close([got], [want], tolerance)


@pytest.mark.parametrize("save", ["input", "output"])
def test_save_applies_to_every_layer(save: Save) -> None:
    made = build(*EQUAL[0][:3])
    given = inputs(made)
    want = run(made, given)
    for name in replace_norms(made, save=save).swapped:
        assert made.get_submodule(name).save == save
    got = run(made, given)
    assert_close([got[0]], [want[0]], 1e-5)
    assert_close(got[1], want[1], 1e-5)


# Different dtypes ---------------------------------------------------------------------------------


def test_a_layer_whose_output_would_have_another_dtype_is_left() -> None:
    """Llama's norms in float32 in a half-precision model return float32."""
    made = build(*EQUAL[0][:3]).to(torch.bfloat16)
    made.model.norm.float()
    replaced = replace_norms(made)
    assert len(replaced.swapped) == 4
    assert replaced.skipped == {
        "model.norm": "makes float32 of a bfloat16 input beside float32 weights, ours bfloat16"
    }


def test_a_half_precision_layer_that_may_get_float32_is_left() -> None:
    """In T5 in half precision, `wo` stays in float32, and so does the stream after it."""
    made = build("T5ForConditionalGeneration", "T5Config", T5_SIZES).to(torch.float16)
    for name, module in made.named_modules():
        if name.endswith(".wo"):
            module.float()
    given = inputs(made)
    want, _ = run(made, given)
    replaced = replace_norms(made)
    assert replaced.swapped == ()
    assert len(set(replaced.skipped.values())) == 1
    assert "a float32 input beside float16 weights" in str(replaced)
    assert_close([run(made, given)[0]], [want], 0.0)


MAMBA_SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.parametrize("wide", [True, False])
def test_a_half_precision_model_with_a_float32_residual_is_left(wide: bool) -> None:
    """Mamba's last norm gets float32, which torch's formulas accept and ours do not."""
    made = build("MambaForCausalLM", "MambaConfig", MAMBA_SIZES | {"residual_in_fp32": wide})
    made.to(torch.bfloat16)
    given = inputs(made)
    want, slopes = run(made, given)
    replaced = replace_norms(made)
    if wide:
        assert set(replaced.skipped.values()) == {
            "takes a float32 input beside bfloat16 weights, which ours does not"
        }
    assert len(replaced.swapped) == (0 if wide else 3)
    got, new_slopes = run(made, given)
    assert_close([got], [want], 0.0 if wide else 4e-2)
    assert_close(new_slopes, slopes, 0.0 if wide else 8e-2)


def test_mamba_in_float32_is_replaced() -> None:
    made = build("MambaForCausalLM", "MambaConfig", MAMBA_SIZES)
    given = inputs(made)
    want, slopes = run(made, given)
    assert str(replace_norms(made)) == "3 norms swapped, 0 skipped"
    got, new_slopes = run(made, given)
    assert_close([got], [want], 1e-5)
    assert_close(new_slopes, slopes, 1e-5)


def test_a_few_parameters_of_another_dtype_prevent_nothing() -> None:
    """Adapters in float32 in a half-precision model return the dtype of their input."""
    made = build(*EQUAL[0][:3]).to(torch.bfloat16)
    made.adapter = nn.Linear(16, 2)
    assert len(replace_norms(made).swapped) == 5


def test_a_model_can_be_copied_and_keeps_no_old_layer() -> None:
    made = build(*EQUAL[0][:3])
    replace_norms(made)
    twin = copy.deepcopy(made)
    given = inputs(made)
    assert torch.equal(twin(**given)[0], made(**given)[0])
    assert not any(type(module).__name__ == "LlamaRMSNorm" for module in made.modules())


def test_norms_of_other_libraries_can_be_observed_afterwards() -> None:
    made = build(*EQUAL[0][:3])
    with pytest.raises(ConfigError, match=r"replace_norms\(model\) first"):
        observe(made)
    replace_norms(made)
    norms = observe(made, every=1)
    with norms.at(1):
        made(**inputs(made))
    assert len(norms.numbers()) == 5 * 7
