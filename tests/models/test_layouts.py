"""GPT saved for transformers and loaded from it: the same logits, or a refusal that says why."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from metronorm.data.bpe_tokenizer import train_bpe
from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.errors import ConfigError, DataError
from metronorm.models import GPT, GPTConfig, load_gpt, preset, save_gpt
from metronorm.models.layouts import LAYOUTS, layout_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TINY = GPTConfig(vocab_size=40, context=16, layers=2, heads=4, width=32)
IDS = torch.arange(12).view(1, 12) * 3
TEXT = "It was the best of times, it was the worst of times: é 漢字.\n" * 9


def variants(**choices: list[Any]) -> list[GPTConfig]:
    return [
        dataclasses.replace(TINY, **dict(zip(choices, values, strict=True)))
        for values in itertools.product(*choices.values())
    ]


OPTIONS: dict[str, list[Any]] = {"tie_embeddings": [True, False], "bias": [True, False]}
GELU: dict[str, list[Any]] = {"norm": ["layer"], "mlp": ["gelu", "gelu_tanh"]}
EXPRESSED = {
    "gpt2": variants(**GELU, positions=["learned"], **OPTIONS),
    "gpt_neox": variants(**GELU, positions=["rotary"], **OPTIONS),
    "llama": variants(
        norm=["rms"], mlp=["swiglu"], positions=["rotary"], kv_heads=[None, 4, 2, 1], **OPTIONS
    ),
}
CASES = [(layout, config) for layout, configs in EXPRESSED.items() for config in configs]


def build(config: GPTConfig, seed: int = 0) -> GPT:
    """Weights so large that every part of the model matters."""
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2 + (weight.dim() == 1) * 0.7)
    return model.eval()


def name_of(case: Any) -> str:
    if isinstance(case, str):
        return case
    options = f"kv{case.kv_heads}", "tied" * case.tie_embeddings, "bias" * case.bias
    return "-".join((case.mlp, *options))


@pytest.mark.parametrize(("layout", "config"), CASES, ids=name_of)
def test_transformers_has_the_logits_and_they_come_back(
    layout: str, config: GPTConfig, tmp_path: Path
) -> None:
    model = build(config)
    assert layout_for(config).name == layout
    save_gpt(model, tmp_path / "saved")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert type(theirs).__name__ == LAYOUTS[layout].architecture
    assert not any(report.values())
    assert torch.allclose(theirs(IDS).logits, model(IDS), rtol=0, atol=1e-5)
    back = load_gpt(tmp_path / "saved")
    kv_heads = None if config.kv_heads == config.heads else config.kv_heads
    bias = config.bias or layout != "llama"
    assert back.config == dataclasses.replace(config, kv_heads=kv_heads, bias=bias)
    assert torch.allclose(back(IDS), model(IDS), rtol=0, atol=1e-6)
    if bias == config.bias:
        assert all(map(torch.equal, back.parameters(), model.parameters()))
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(load_gpt(tmp_path / "theirs")(IDS), back(IDS))


def test_what_no_layout_expresses_is_refused() -> None:
    every = variants(
        norm=["layer", "rms"],
        mlp=["gelu", "gelu_tanh", "swiglu"],
        positions=["learned", "rotary"],
        kv_heads=[None, 2],
    )
    expressed = {
        (config.norm, config.mlp, config.positions, config.kv_heads) for _, config in CASES
    }
    for config in every:
        options = (config.norm, config.mlp, config.positions, config.kv_heads)
        if options in expressed:
            layout_for(config)
        else:
            with pytest.raises(ConfigError, match="must have the options of a layout"):
                layout_for(config)


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("gpt2", {}, "gpt2 cannot express positions='rotary'; .* with positions='learned'"),
        ("gpt2", {"positions": "learned", "norm": "rms"}, "norm='rms'"),
        ("gpt2", {"positions": "learned", "kv_heads": 2}, "kv_heads=2"),
        ("gpt2", {"positions": "learned", "mlp": "swiglu"}, "mlp='swiglu'"),
        ("gpt_neox", {"positions": "learned"}, "positions='learned'"),
        ("llama", {"norm": "rms"}, "mlp='gelu'"),
        ("llama", {"mlp": "swiglu"}, "norm='layer'"),
        ("llama", {"mlp": "swiglu", "norm": "rms", "positions": "learned"}, "positions='learned'"),
        ("t5", {}, "one of 'gpt2', 'gpt_neox', 'llama'; got 't5'"),
    ],
)
def test_a_layout_names_the_option_that_it_cannot_express(
    layout: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = build(dataclasses.replace(TINY, **changes))
    with pytest.raises(ConfigError, match=message):
        save_gpt(model, tmp_path / "saved", layout=layout)
    assert not any(tmp_path.iterdir())


def test_presets_and_dropout_are_kept(tmp_path: Path) -> None:
    assert layout_for(preset("quick")).name == "gpt_neox"
    assert layout_for(preset("gpt2")).name == "gpt2"
    for layout, configs in EXPRESSED.items():
        config = dataclasses.replace(configs[0], dropout=0.25)
        save_gpt(build(config), tmp_path / layout)
        assert load_gpt(tmp_path / layout).config.dropout == 0.25
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / layout)
        assert not torch.equal(theirs.train()(IDS).logits, theirs(IDS).logits)


def test_a_foreign_gpt2_without_prefix_and_in_shards_is_loaded(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, **sizes)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = load_gpt(tmp_path)
    assert ours.config.dropout == 0.1
    assert torch.allclose(ours(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
    theirs.transformer.save_pretrained(tmp_path / "body")
    tensors = safetensors.torch.load_file(tmp_path / "body" / "model.safetensors")
    assert "wte.weight" in tensors
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)  # as the first GPT-2 has it
    safetensors.torch.save_file(tensors, tmp_path / "body" / "model.safetensors")
    assert torch.equal(load_gpt(tmp_path / "body")(IDS), ours(IDS))


FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"rope_parameters": {"rope_theta": 5e5}}, "rope_theta=10000.0 .*; got 500000.0"),
    ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rope_type='default'"),
    ("llama", {"rms_norm_eps": 1e-5}, "rms_norm_eps=1e-06 .*; got 1e-05"),
    ("llama", {"intermediate_size": 100}, "intermediate_size=96 .*; got 100"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act='silu'"),
    ("llama", {"attention_bias": True}, "mlp_bias=True"),
    ("llama", {"head_dim": 16}, "head_dim=8"),
    ("llama", {"num_attention_heads": 3}, "heads must divide width"),
    ("gpt2", {"n_inner": 64}, "n_inner=128"),
    ("gpt2", {"activation_function": "relu"}, "activation_function='gelu'"),
    ("gpt2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-05"),
    ("gpt2", {"attn_pdrop": 0.5}, "attn_pdrop=0.0"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=False"),
    ("gpt_neox", {"use_parallel_residual": True}, "use_parallel_residual=False"),
    ("gpt_neox", {"rope_parameters": None, "rotary_pct": 0.25}, "rotary_pct=1.0"),
    ("gpt_neox", {"model_type": "t5"}, "got 't5'"),
]


@pytest.mark.parametrize(("layout", "fields", "message"), FIELDS)
def test_a_model_that_a_gpt_cannot_express_is_refused(
    layout: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_gpt(build(EXPRESSED[layout][-1]), tmp_path)
    change_json(tmp_path / "config.json", fields)
    with pytest.raises(ConfigError, match=message):
        load_gpt(tmp_path)


def change_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change_tensors(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda path: (path / "config.json").unlink(), "got .*config.json"),
    "torn config": (lambda path: cut(path / "config.json"), "got .*config.json"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "whole safetensors"),
    "torn weights": (lambda path: cut(path / "model.safetensors"), "whole safetensors"),
    "a weight missing": (
        lambda path: change_tensors(
            path / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight")
        ),
        "all weights; got .* without model.norm.weight",
    ),
    "a weight too many": (
        lambda path: change_tensors(
            path / "model.safetensors", lambda tensors: tensors.update(more=torch.zeros(2))
        ),
        "no other weights; got more",
    ),
    "another size": (
        lambda path: change_json(path / "config.json", {"vocab_size": 41}),
        r"model.embed_tokens.weight of shape \(40, 32\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    save_gpt(build(EXPRESSED["llama"][0]), tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        load_gpt(tmp_path)


def test_sizes_must_be_there(tmp_path: Path) -> None:
    save_gpt(build(EXPRESSED["gpt2"][0]), tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["n_embd"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match="must have all sizes; got no 'n_embd'"):
        load_gpt(tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(ConfigError, match="new directory"):
        save_gpt(build(EXPRESSED["gpt2"][0]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_half_precision_is_kept_and_loaded_as_float32(tmp_path: Path) -> None:
    model = build(EXPRESSED["llama"][0]).bfloat16()
    save_gpt(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.bfloat16
    back = load_gpt(tmp_path)
    assert all(
        torch.equal(mine, own.float())
        for mine, own in zip(back.parameters(), model.parameters(), strict=True)
    )


FRESH = """
import json, sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
assert not any(name.startswith("metronorm") for name in sys.modules)
ids = tokenizer(sys.argv[2]).input_ids
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
end = tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id
text = tokenizer.decode(ids)
print(json.dumps([ids, text, end, tokenizer.model_max_length, logits.tolist()]))
"""


@pytest.mark.parametrize(
    ("kind", "layout"), [("char", "gpt2"), ("bpe", "gpt_neox"), ("bpe", "llama")]
)
def test_a_fresh_process_without_metronorm_has_text_and_logits(
    kind: str, layout: str, tmp_path: Path
) -> None:
    tokenizer = (
        CharTokenizer("".join(sorted(set(TEXT))))
        if kind == "char"
        else train_bpe([TEXT, None], 300)
    )
    vocabulary = tokenizer.vocab_size
    config = dataclasses.replace(EXPRESSED[layout][0], vocab_size=vocabulary, context=100)
    model = build(config)
    save_gpt(model, tmp_path / "saved", tokenizer=tokenizer)
    text = "It was 漢 the é worst,  of\nthe best.\n"
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "saved"), text],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    ids, decoded, end, longest, logits = json.loads(done.stdout)
    assert ids == tokenizer.encode(text).tolist()
    assert decoded == text
    assert end == [tokenizer.separator] * 3
    assert longest == 100
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0].numpy()
    assert np.abs(ours - np.array(logits)).max() < 1e-5


def test_characters_that_are_unknown_are_refused_by_transformers_too(tmp_path: Path) -> None:
    CharTokenizer("ab\n").save_huggingface(tmp_path, 8)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("abba\n").input_ids == [0, 1, 1, 0, 2]
    with pytest.raises(Exception, match="UNK"):
        tokenizer("abc")
    with pytest.raises(DataError, match="lone surrogates"):
        CharTokenizer("a\ud800").save_huggingface(tmp_path, 8)
