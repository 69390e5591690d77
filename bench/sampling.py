"""Tokens per second of sampling, beside `transformers.generate` on the same weights, in turns.

Models of 1 M, 10 M and 124 M parameters with random weights, 1 and 8 prompts of 32 tokens, each
drawn from all tokens at temperature 0.8. Ours is what `metronorm sample` does: it chooses the
number of threads; the peer is measured with all threads and with one. A turn ends with the last
token of the last prompt, and has the reading of the prompts.

    python bench/sampling.py            everything
    python bench/sampling.py 1M         one model
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `metronorm sample` does, before torch

import torch
from _rows import append

from metronorm.models import GPT, PRESETS, save_gpt
from metronorm.models.decoding import decoding_threads
from metronorm.models.sampling import generator_of, sample_batch

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 6
PROMPT = 32  # tokens
# by size: the preset, and tokens to draw
SIZES = {"1M": ("quick", 96), "10M": ("small", 96), "124M": ("gpt2", 48)}
PROMPTS = (1, 8)


def main() -> None:
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    wanted = sys.argv[1:] or [*SIZES]
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    for size in wanted:
        name, tokens = SIZES[size]
        torch.manual_seed(0)
        model = GPT(PRESETS[name]).eval()
        with tempfile.TemporaryDirectory() as folder:
            save_gpt(model, folder)
            peer: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32
            )
        peer.eval()
        check_same(model, peer)
        for number in PROMPTS:
            compare(size, model.to(device), peer.to(device), number, tokens)


def check_same(model: GPT, peer: Any) -> None:
    """Both must compute the same."""
    ids = torch.arange(PROMPT)[None]
    with torch.inference_mode():
        gap = float((model(ids) - peer(ids).logits).abs().max())
    if gap > 1e-3:
        raise SystemExit(f"not the same model: logits differ by {gap}")


def compare(size: str, model: GPT, peer: Any, number: int, tokens: int) -> None:
    """Take turns; append tokens per second of each, and their ratio."""
    chance = torch.Generator().manual_seed(1)
    prompts = torch.randint(model.config.vocab_size, (number, PROMPT), generator=chance)
    threads = torch.get_num_threads()
    device = model.tokens.weight.device

    def ours() -> int:
        generators = [generator_of(seed) for seed in range(number)]
        with decoding_threads(model):
            return sum(
                1
                for _ in sample_batch(
                    model,
                    list(prompts),
                    max_tokens=tokens,
                    temperature=0.8,
                    generators=generators,
                )
            )

    def theirs(threads_taken: int) -> Callable[[], int]:
        def run() -> int:
            torch.set_num_threads(threads_taken)
            try:
                with torch.inference_mode():
                    found = peer.generate(
                        prompts.to(device),
                        attention_mask=torch.ones_like(prompts).to(device),
                        do_sample=True,
                        temperature=0.8,
                        top_k=0,
                        min_new_tokens=tokens,
                        max_new_tokens=tokens,
                        pad_token_id=0,
                    )
            finally:
                torch.set_num_threads(threads)
            return int(found[:, PROMPT:].numel())

        return run

    sides = {"metronorm": ours, "transformers": theirs(threads)}
    if threads > 1 and device.type == "cpu":
        sides["transformers, one thread"] = theirs(1)
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(ROUNDS + 1):
        for side, run in sides.items():
            begin = time.perf_counter()
            drawn = run()
            seconds = time.perf_counter() - begin
            if drawn != number * tokens:
                raise SystemExit(f"{side} drew {drawn} tokens instead of {number * tokens}")
            if turn:  # the first is cold
                speeds[side].append(drawn / seconds)
    case = f"{size}, {number} prompt{'s' if number > 1 else ''}"
    for side, samples in speeds.items():
        append("sampling", f"{case}, {side}", "tokens/s", samples)
    others = [speeds[side] for side in sides if side != "metronorm"]
    best = [max(each) for each in zip(*others, strict=True)]
    ratios = [a / b for a, b in zip(speeds["metronorm"], best, strict=True)]
    append("sampling", f"{case}, metronorm over the faster transformers", "ratio", ratios)


if __name__ == "__main__":
    main()
