"""What is saved: Hugging Face's layout, whole or not at all, and proven by a fresh process."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from metronorm import __version__
from metronorm.clock import Clock
from metronorm.errors import CheckpointError, ConfigError, DataError, RunError
from metronorm.finetune.adapting import Adapted, adapt
from metronorm.finetune.architectures import features
from metronorm.finetune.card import CardTable, escaped, model_card
from metronorm.finetune.exporting import save_adapter, save_model
from metronorm.finetune.pretrained import load
from metronorm.finetune.proving import (
    SAME_WEIGHTS,
    Proof,
    _spread,
    export,
    live_logits,
    prove,
)
from metronorm.finetune.ways import AdaptConfig
from tests.finetune.adapting import LABELS, disturb, logits, pretrained, rows
from tests.finetune.pretrained_files import save_gguf
from tests.finetune.tiny import CAUSAL, CLASSIFIER, packed
from tests.full_disk import fill, small_disk

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.finetune.exporting import Saved
    from metronorm.finetune.ways import Body, Way


def adapted(name: str, directory: Path, way: Way, body: Body = "fp32") -> Adapted:
    made = adapt(pretrained(name, directory), AdaptConfig(way=way, body=body, rank=2))
    disturb(made.parameters().values())
    return made


def reload(directory: Path, kind: str) -> Any:
    auto = {
        "causal": transformers.AutoModelForCausalLM,
        "classifier": transformers.AutoModelForSequenceClassification,
    }[kind]
    return auto.from_pretrained(directory, dtype="auto")


@pytest.mark.parametrize(
    ("name", "way", "body"),
    [
        *((name, "lora", "fp32") for name in (*CAUSAL, *CLASSIFIER)),
        ("llama", "full", "bf16"),
        ("gpt2", "norm", "bf16"),
        ("bert", "head", "fp32"),
        ("modernbert", "norm+head", "bf16"),
    ],
)
def test_the_whole_model_loads_with_plain_transformers(
    name: str, way: Way, body: Body, tmp_path: Path
) -> None:
    made = adapted(name, tmp_path, way, body)
    given = made.pretrained
    dtypes = [each.dtype for each in given.model.parameters()]
    save_model(given, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {name, "out"}
    theirs = reload(tmp_path / "out", given.kind)
    assert {each.dtype for each in theirs.parameters()} == {torch.float32}
    want = torch.stack([each.squeeze(0) for each in live_logits(given.model, rows(), None)])
    torch.testing.assert_close(logits(theirs), want, rtol=0, atol=1e-5 * float(want.abs().max()))
    assert [each.dtype for each in given.model.parameters()] == dtypes
    if given.kind == "classifier":
        assert theirs.config.id2label == dict(enumerate(LABELS))
    embeddings, head = theirs.get_input_embeddings(), theirs.get_output_embeddings()
    tied = given.kind == "causal" and given.model.config.tie_word_embeddings
    assert (head is not None and head.weight is embeddings.weight) == tied
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == given.tokenizer.chat_template
    assert again.get_vocab() == given.tokenizer.get_vocab()


def test_bfloat16_is_rounded_once_and_said_in_the_config(tmp_path: Path) -> None:
    made = adapted("llama", tmp_path, "lora")
    save_model(made.pretrained, tmp_path / "wide")
    save_model(made.pretrained, tmp_path / "half", "bf16")
    wide, half = (load_file(tmp_path / at / "model.safetensors") for at in ("wide", "half"))
    assert wide.keys() == half.keys()
    assert not any("lora" in name for name in wide)
    assert all(torch.equal(wide[name].bfloat16(), half[name]) for name in wide)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert made.pretrained.model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, "norm") for name in CAUSAL] + [(name, "norm+head") for name in CLASSIFIER],
)
def test_norms_are_saved_as_the_ln_tuning_of_peft(name: str, way: Way, tmp_path: Path) -> None:
    made = adapted(name, tmp_path, way)
    save_adapter(made, tmp_path / "out")
    base = pretrained(name, tmp_path / "again").model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # by peft
        warnings.filterwarnings("ignore", "Unsupported layer type")  # of every norm
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out")
    want = logits(made.pretrained.model.eval()).detach()
    torch.testing.assert_close(
        logits(theirs.eval()), want, rtol=0, atol=1e-5 * float(want.abs().max())
    )
    if name in CLASSIFIER:
        assert json.loads((tmp_path / "out" / "labels.json").read_text()) == list(LABELS)


@pytest.mark.parametrize("way", ["full", "head"])
def test_what_is_no_adapter_is_refused(way: Way, tmp_path: Path) -> None:
    made = adapted("bert", tmp_path, way)
    with pytest.raises(ConfigError, match=r"an adapter is saved of lora, norm or norm\+head"):
        save_adapter(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_with_a_layer_for_the_mean_is_saved_whole(tmp_path: Path) -> None:
    pretrained("bert", tmp_path)
    pooling = tmp_path / "bert" / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    given = load(tmp_path / "bert", "classifier", labels=LABELS)
    made = adapt(given, AdaptConfig(way="lora", rank=2))
    disturb(made.parameters().values())
    with pytest.raises(ConfigError, match="got 3 layers, where the base model's files have 2"):
        save_adapter(made, tmp_path / "out")
    save_model(given, tmp_path / "out")
    theirs = reload(tmp_path / "out", "classifier")
    want = live_logits(given.model, rows(), None)
    torch.testing.assert_close(logits(theirs), torch.cat(want), rtol=0, atol=1e-4)


# Whole or not at all ------------------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    given = pretrained("llama", tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    with pytest.raises(RunError, match="new directory"):
        save_model(given, full)
    with pytest.raises(RunError, match="new directory"):
        save_model(given, full / "mine")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="must be writable"):
        save_model(given, tmp_path / "file" / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "full", "file"}


def test_on_a_full_disk_nothing_is_left_behind(tmp_path: Path) -> None:
    given = pretrained("llama", tmp_path)
    weights = 4 * sum(each.numel() for each in given.model.parameters())
    with small_disk(tmp_path / "disk") as disk:
        ballast = fill(disk)
        with pytest.raises(RunError, match=r"a disk must have room for what is saved, .* KiB"):
            save_model(given, disk / "out")
        # room for the weights, and not for all else
        with open(ballast, "rb+") as file:
            file.truncate(ballast.stat().st_size - int(weights * 1.1))
        with pytest.raises(RunError, match=r"have room; got .*No space left on device"):
            save_model(given, disk / "out")
        assert list(disk.iterdir()) == [ballast]


# Proof --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "way", "form", "dtype"),
    [
        ("llama", "lora", "adapter", "fp32"),
        ("modernbert", "norm+head", "model", "bf16"),
    ],
)
def test_a_fresh_process_proves_what_was_saved(
    name: str, way: Way, form: Any, dtype: Saved, tmp_path: Path
) -> None:
    made = adapted(name, tmp_path, way)
    out = tmp_path / "out"
    proof = export(
        made,
        out,
        rows(),
        form=form,
        dtype=dtype,
        card=lambda proof: model_card(made, proof, name="my *model*", form=form),
    )
    assert {path.name for path in tmp_path.iterdir()} == {name, "out"}
    assert abs(proof.divergence) < (1e-9 if dtype == "fp32" else 0.02)
    assert proof.agreement > (0.999 if dtype == "fp32" else 0.9)
    assert proof.positions == (27 if name in CAUSAL else 3)
    assert ("peft" in proof.versions) == (form == "adapter")
    card = (out / "README.md").read_text()
    assert "# my \\*model\\*\n" in card
    assert f"by `{way}`: {made.trained:,} of {made.total:,} parameters" in card
    assert f'library_name: "{"peft" if form == "adapter" else "transformers"}"' in card


@pytest.mark.usefixtures("forked_proofs")
def test_another_model_is_refused_and_kept_aside(tmp_path: Path) -> None:
    made = adapted("llama", tmp_path, "lora")
    save_adapter(made, tmp_path / "out")
    weights = tmp_path / "out" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: each * 1.5 for name, each in tensors.items()}, weights)
    with pytest.raises(CheckpointError, match=r"must compute what the live one does .*KL 1e-05"):
        prove(made, tmp_path / "out", rows(), SAME_WEIGHTS)
    assert weights.exists()


@pytest.mark.usefixtures("forked_proofs")
def test_an_adapter_of_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    save_gguf(tmp_path / "base" / "tiny.gguf")
    made = adapt(load(tmp_path / "base" / "tiny.gguf", "causal"), AdaptConfig(way="lora", rank=2))
    disturb(made.parameters().values())
    proof = export(made, tmp_path / "out", [[3, 4, 5, 6]], form="adapter")
    assert proof.positions == 4


@pytest.mark.parametrize("name", CAUSAL)
def test_logits_of_a_model_in_training_leave_it_as_it_was(name: str, tmp_path: Path) -> None:
    made = adapted(name, tmp_path, "lora", "bf16")
    model = made.pretrained.model.train()
    before = live_logits(model, rows(), None)
    dtypes = [each.dtype for each in model.parameters()]
    # in training the model gets our attention for packs, and keeps it
    features(model, packed([7, 3, 9])).float().square().sum().backward()
    after = live_logits(model, rows(), None)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)
    assert model.training
    assert [each.dtype for each in model.parameters()] == dtypes
    features(model, packed([7, 3, 9])).float().square().sum().backward()


def test_positions_are_spread_to_the_end() -> None:
    assert _spread(9, 100) == list(range(9))
    assert _spread(9, 3) == [2, 5, 8]
    assert _spread(9, 0) == [8]
    assert _spread(1, 5) == [0]


def test_a_proof_needs_rows(tmp_path: Path) -> None:
    made = adapted("llama", tmp_path, "norm")
    with pytest.raises(DataError, match="rows of tokens"):
        prove(made, tmp_path, [[]], SAME_WEIGHTS)


# The card -----------------------------------------------------------------------------------------


def test_texts_of_data_are_no_markup() -> None:
    assert escaped("a|b\n# <script>*x*\x1b[31m") == ("a\\|b \\# &lt;script\\>\\*x\\*\\\\x1b\\[31m")
    assert escaped("_x_ [a](b) 1. - + www.a.b $y$ ~z~") == (
        "\\_x\\_ \\[a\\](b) 1\\. \\- \\+ www\\.a.b \\$y\\$ \\~z\\~"
    )
    for plain in (
        "-0.7629 to 4.578e-05",
        "mails-lora",
        "learning_rate",
        "/a/b-c.json",
        "(R) 2.1+cpu.",
    ):
        assert escaped(plain) == plain
    assert len(escaped("x" * 1000)) == 200


def test_a_card_has_tables_and_labels_as_text(tmp_path: Path) -> None:
    made = adapted("bert", tmp_path, "norm+head")
    proof = Proof(1e-9, 1.0, 1e-6, 3.0, 3, {"transformers": "5"})
    tables = [
        CardTable(
            "Data", ("reason", "rows"), [("no `|` label", 3), ("trained", None)], "Sums <b>."
        ),
    ]
    card = model_card(made, proof, name="out", form="adapter", tables=tables)
    assert "| no \\`\\|\\` label | 3 |\n| trained |  |\n\nSums &lt;b\\>." in card
    assert card.startswith('---\nlibrary_name: "peft"\npipeline_tag: "text-classification"\n')
    assert 'id2label=labels, num_labels=len(labels), dtype="float32")' in card
    assert "| same most probable token or label | 100% |" in card


def test_a_card_tells_of_the_run(tmp_path: Path) -> None:
    made = adapted("llama", tmp_path, "lora")
    run = tmp_path / "run"
    config = {"optimizer": {"learning_rate": 1e-3}, "data": "a|b.jsonl", "ticks": 60}
    with Clock(run, config=config, progress=False) as clock:
        for tick in clock.ticks(range(60), total=60):
            clock.log(loss=4 - tick / 20, tokens=100)
            if clock.tick == 60:
                clock.log(validation_loss=1.25)
    card = model_card(made, Proof(0.0, 1.0, 0.0, 1.0, 9, {}), name="out", run=run)
    assert "| ticks | 60 |\n| tokens | 6,000 |\n" in card
    assert "| data | a\\|b.jsonl |" in card
    assert "| optimizer.learning_rate | 0.001 |" in card
    assert f"| metronorm | {escaped(__version__)} |" in card
    losses = card[card.index("## Losses") :].split("\n\n")[2].splitlines()
    assert losses[0] == "| tick | loss | validation_loss |"
    assert len(losses) == 2 + 20
    assert losses[2] == "| 1 | 3.9500 |  |"
    assert losses[-1].endswith("| 1.2500 |")
