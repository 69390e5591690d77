"""The roster: one tick of each architecture beside plain transformers, and its norms replaced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import Tensor

from metronorm.errors import ConfigError
from metronorm.finetune.architectures import check_architecture, features, head
from metronorm.loss import linear_cross_entropy
from metronorm.norm import replace_norms
from tests.finetune.test_packed_attention import LENGTHS, furthest, gradients
from tests.finetune.tiny import CAUSAL, CLASSIFIER, SIZES, build, one_by_one, packed, padded, twin


def causal_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """Ours: of the head on the features, weighted and summed."""
    last = head(model)
    return linear_cross_entropy(
        features(model, batch),
        last.weight,
        torch.as_tensor(batch["targets"]),
        bias=last.bias,
        weights=torch.as_tensor(batch["weights"]),
        soft_cap=last.soft_cap,
        scale=last.scale,
    )


def plain_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of transformers, one document at a time, from the logits of its own head."""
    summed = torch.zeros((), dtype=model.dtype)
    for each in one_by_one(batch):
        logits = model(torch.as_tensor(each["ids"])[None]).logits[0]
        losses = F.cross_entropy(logits, torch.as_tensor(each["targets"]), reduction="none")
        summed = summed + losses @ torch.as_tensor(each["weights"]).to(losses)
    return summed


@pytest.mark.parametrize("name", CAUSAL)
def test_a_tick_of_a_causal_model_is_that_of_transformers(name: str) -> None:
    model = build(name, exact=True)
    plain = twin(model)
    batch = packed(LENGTHS)
    ours, theirs = causal_loss(model, batch), plain_loss(plain, batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-13)
    ours.backward()
    theirs.backward()
    assert furthest(gradients(model), gradients(plain)) < 1e-12


@pytest.mark.parametrize("name", CAUSAL)
def test_the_loss_of_labels_is_ours_with_every_weight_one(name: str) -> None:
    model = build(name, exact=True)
    batch = packed([9])
    whole = torch.as_tensor([*batch["ids"], batch["targets"][-1]])[None]
    batch["weights"][:] = 1.0
    theirs = twin(model)(whole, labels=whole).loss
    assert causal_loss(model, batch).item() / 9 == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("name", CLASSIFIER)
def test_a_tick_of_a_classifier_is_that_of_transformers(name: str) -> None:
    model = build(name, exact=True)
    plain = twin(model)
    batch = padded()
    labels = torch.as_tensor(batch["labels"])
    last = head(model)
    assert last.soft_cap is None
    ours = linear_cross_entropy(features(model, batch), last.weight, labels, bias=last.bias)
    ours = ours / len(labels)
    theirs = plain(
        torch.as_tensor(batch["ids"]), torch.as_tensor(batch["mask"]), labels=labels
    ).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-13)
    ours.backward()
    theirs.backward()
    assert furthest(gradients(model), gradients(plain)) < 1e-12


@pytest.mark.parametrize("name", CAUSAL | CLASSIFIER)
def test_replaced_norms_give_the_same_numbers(name: str) -> None:
    model = build(name)
    plain = twin(model)
    replaced = replace_norms(model)
    if name == "gemma3":  # its norms multiply by 1 + weight, which no norm of ours does
        assert not replaced.swapped
    else:
        assert len(replaced.swapped) >= 2 * model.config.num_hidden_layers + 1
        assert not replaced.skipped
    batch = packed(LENGTHS) if name in CAUSAL else padded()
    ours, theirs = features(model, batch), features(plain, batch)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    assert furthest(gradients(model), gradients(plain)) < 1e-4


@pytest.mark.parametrize("name", CAUSAL)
def test_a_tied_head_is_the_embedding(name: str) -> None:
    model = build(name)
    tied = head(model).weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    assert head(model).soft_cap == (3.0 if name == "gemma3" else None)


def test_features_of_a_text_do_not_depend_on_its_batch() -> None:
    for name in CLASSIFIER:
        model = build(name, exact=True).eval()
        batch = padded()
        together = features(model, batch)
        for row, length in enumerate(batch["mask"].sum(axis=1)):
            alone = {key: batch[key][row : row + 1, :length] for key in ("ids", "mask")}
            assert (features(model, alone)[0] - together[row]).abs().max() < 1e-12


def test_other_architectures_are_refused() -> None:
    names = {"num_layers": 1, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2}
    config = transformers.T5Config(vocab_size=20, **names)
    with pytest.raises(
        ConfigError, match="got 't5'; try: llama, qwen3, gemma3_text, gpt2, gpt_neox"
    ):
        check_architecture(config.to_dict(), "causal")
    with pytest.raises(ConfigError, match=r"got .t5.; try: llama, .*, bert, modernbert"):
        features(transformers.T5ForConditionalGeneration(config), packed([3]))
    with pytest.raises(ConfigError, match="'bert', which is for a classifier model"):
        check_architecture({"model_type": "bert"}, "causal")
    with pytest.raises(ConfigError, match="'gpt2', which is for a causal model"):
        check_architecture({"model_type": "gpt2"}, "classifier")
    both_ways = transformers.Gemma3TextConfig(**SIZES, use_bidirectional_attention=True)
    with pytest.raises(ConfigError, match="only what comes before"):
        check_architecture(both_ways.to_dict(), "causal")


def test_bfloat16_batches_of_any_length_have_few_shapes() -> None:
    """For each new one kernels are built on a CPU: minutes and hundreds of megabytes in all."""
    model, seen = build("llama").bfloat16(), set()
    layer = model.model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda _, given, __: seen.add(given[0].shape[1]))
    for length in range(1, 65):
        found = features(model, packed([length]))
        assert found.shape == (length, 32)
        found.sum().backward()
    assert seen == {32, 64}


@pytest.mark.parametrize("name", CLASSIFIER)
def test_padding_changes_no_features_of_a_classifier(name: str) -> None:
    model = build(name).eval()
    ids = torch.randint(3, 60, (3, 10))
    mask = torch.ones_like(ids)
    plain = features(model, {"ids": ids, "mask": mask})
    with torch.autocast("cpu", torch.bfloat16):
        rounded = features(model, {"ids": ids, "mask": mask})
    torch.testing.assert_close(rounded.float(), plain, rtol=0.05, atol=0.05)
