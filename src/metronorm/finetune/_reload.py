"""Load a saved model with plain transformers and peft, and compare its logits with given ones.

It is run as a script in a process of its own, and imports nothing of the package around it. Its
argument is a JSON file:

    path       of the saved model, or of the adapter
    base       of the base model, for an adapter; "" for a whole model
    gguf       name of a GGUF file in the base model's folder; ""
    kind       "causal" or "classifier"
    labels     number of labels of a classifier
    rows       token ids of each row
    places     of each row, at which positions logits were kept (for a classifier [0])
    logits     a safetensors file with the logits that are expected: "0", "1", ..., one per row
    result     where to write the result, as JSON
"""

import json
import math
import sys

import torch
import transformers
from safetensors.torch import load_file


def main() -> None:
    """Compare, and write the sums."""
    with open(sys.argv[1]) as file:
        asked = json.load(file)
    causal = asked["kind"] == "causal"
    auto = "AutoModelForCausalLM" if causal else "AutoModelForSequenceClassification"
    more = {} if causal else {"num_labels": asked["labels"]}
    if asked["gguf"]:
        more["gguf_file"] = asked["gguf"]
    # whatever the dtype on disk: the numbers that are there, computed in float32
    model = getattr(transformers, auto).from_pretrained(
        asked["base"] or asked["path"], dtype=torch.float32, local_files_only=True, **more
    )
    if asked["base"]:
        import peft

        model = peft.PeftModel.from_pretrained(model, asked["path"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked["path"], local_files_only=True)
    expected = load_file(asked["logits"])
    divergence = largest = scale = 0.0
    agreed = count = 0
    for number, (ids, places) in enumerate(zip(asked["rows"], asked["places"], strict=True)):
        want = expected[str(number)].double()
        given = torch.tensor([ids])
        with torch.inference_mode():
            got = model.eval()(input_ids=given, attention_mask=torch.ones_like(given)).logits[0]
        got = (got[places] if causal else got[None]).double()
        log_want, log_got = want.log_softmax(-1), got.log_softmax(-1)
        divergence += float((log_want.exp() * (log_want - log_got)).sum())
        agreed += int((want.argmax(-1) == got.argmax(-1)).sum())
        gap = float((want - got).abs().max())
        largest = max(largest, gap if math.isfinite(gap) else math.inf)
        scale = max(scale, float(want.abs().max()))
        count += len(want)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if asked["base"]:
        versions["peft"] = peft.__version__
    result = {
        "divergence": divergence / count,
        "agreement": agreed / count,
        "largest_gap": largest,
        "largest_logit": scale,
        "positions": count,
        "tokenizer": [len(tokenizer), getattr(tokenizer, "chat_template", None)],
        "versions": versions,
    }
    foreign = [name for name in sys.modules if name.partition(".")[0] == "metronorm"]
    if foreign:
        raise SystemExit(f"a process without metronorm has loaded {foreign[0]}")
    with open(asked["result"], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
