"""Drawing tokens: with and without cache alike, exact cuts, arguments checked at the call."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from metronorm.errors import ConfigError, MetronormError
from metronorm.models.config import GPTConfig
from metronorm.models.gpt import GPT, KVCache
from metronorm.models.sampling import probabilities, sample, sample_batch

CONFIG = GPTConfig(vocab_size=17, context=12, layers=2, heads=4, width=16)


def build(config: GPTConfig = CONFIG) -> GPT:
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return model


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("context", [1, 2, 12])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_changes_nothing_even_past_the_context(
    positions: Any, kv_heads: int | None, context: int, temperature: float
) -> None:
    config = dataclasses.replace(CONFIG, positions=positions, kv_heads=kv_heads, context=context)
    model = build(config)
    for prompt in ([3], list(range(11)), [1, 2] * 15):
        drawn = [
            list(
                sample(
                    model,
                    prompt,
                    max_tokens=40,
                    temperature=temperature,
                    generator=torch.Generator().manual_seed(5),
                    cache=cache,
                )
            )
            for cache in (True, False)
        ]
        assert drawn[0] == drawn[1]
        assert len(drawn[0]) == 40
        assert set(drawn[0]) <= set(range(17))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_prompts_drawn_together_get_what_they_get_alone(
    positions: Any, kv_heads: int | None, cache: bool
) -> None:
    """Of any lengths, past the context, and where some need no more tokens."""
    model = build(dataclasses.replace(CONFIG, positions=positions, kv_heads=kv_heads))
    prompts = [[3], list(range(11)), [1, 2] * 15, [7, 7, 7], [4, 5, 6, 7, 8]]
    limits = [40, 3, 17, 40, 9]

    def generator(number: int) -> torch.Generator:
        return torch.Generator().manual_seed(number)

    alone = [
        list(sample(model, prompt, max_tokens=limit, top_k=9, generator=generator(number)))
        for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    done: set[int] = set()
    together: list[list[int]] = [[] for _ in prompts]
    for number, token in sample_batch(
        model,
        prompts,
        max_tokens=40,
        top_k=9,
        generators=[generator(number) for number in range(len(prompts))],
        cache=cache,
        done=done,
    ):
        together[number].append(token)
        if len(together[number]) == limits[number]:
            done.add(number)
    assert together == alone


def test_what_is_before_a_prompt_in_the_batch_changes_none_of_its_logits() -> None:
    model = build()
    short, long = [5, 1], [2, 3, 4, 8, 9, 9]
    cache = KVCache(CONFIG, 2)
    cache.padding = torch.tensor([4, 0])
    with torch.no_grad():
        both = model(torch.tensor([[0, 0, 0, 0, *short], long]), cache=cache)
        for token in (6, 11):
            both = torch.cat([both, model(torch.tensor([[token], [token]]), cache=cache)], dim=1)
        for row, prompt, before in ((0, short, 4), (1, long, 0)):
            alone = model(torch.tensor([[*prompt, 6, 11]]))[0]
            torch.testing.assert_close(both[row, before:], alone, rtol=1e-5, atol=1e-5)


def test_all_that_are_done_end_the_drawing() -> None:
    done = {0}
    drawn = sample_batch(build(), [[1], [2, 3]], max_tokens=9, done=done)
    assert [next(drawn)[0], next(drawn)[0]] == [1, 1]
    done.add(1)
    assert list(drawn) == []


@pytest.mark.parametrize(("prompts", "generators"), [([], None), ([[1], [2]], [None])])
def test_each_prompt_needs_a_generator(prompts: Any, generators: Any) -> None:
    with pytest.raises(ConfigError, match="each prompt needs its generator"):
        sample_batch(build(), prompts, max_tokens=1, generators=generators)


def test_temperature_0_takes_the_most_likely_token() -> None:
    model, tokens = build(), [4, 2, 9]
    for token in sample(model, torch.tensor(tokens), max_tokens=5, temperature=0):
        assert token == int(model(torch.tensor([tokens]))[0, -1].argmax())
        tokens.append(token)


def test_a_seed_gives_the_same_tokens_and_does_not_change_the_global_generator() -> None:
    model = build()
    state = torch.get_rng_state()

    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return list(sample(model, [1], max_tokens=30, generator=generator))

    assert draw(1) == draw(1) != draw(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_are_yielded_one_at_a_time() -> None:
    endless = sample(build(), [1], max_tokens=10**9)
    assert len(list(itertools.islice(endless, 3))) == 3


def test_the_mode_of_the_model_is_kept_and_dropout_is_off() -> None:
    model = build(dataclasses.replace(CONFIG, dropout=0.5))
    drawn = []
    for mode in (True, False):
        model.train(mode)
        drawn.append(list(sample(model, [1], max_tokens=20, temperature=0)))
        assert model.training is mode
        assert model.blocks[0].training is mode
    assert drawn[0] == drawn[1]


def test_sampling_works_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert len(list(sample(build(), [1], max_tokens=20))) == 20


LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"temperature": 1e-30}, [0, 1, 0, 0]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 100}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.71}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_probabilities(options: dict[str, Any], want: list[float]) -> None:
    got = probabilities(LOGITS, **options)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float32), rtol=1e-5, atol=1e-6)
    both = probabilities(torch.stack([LOGITS, LOGITS.flip(0)]), **options)
    torch.testing.assert_close(both, torch.stack([got, got.flip(0)]))


def test_top_k_of_equal_logits_keeps_exactly_k() -> None:
    assert int((probabilities(torch.zeros(50), top_k=7) > 0).sum()) == 7


def test_draws_follow_the_cut_probabilities() -> None:
    model = build()
    want = probabilities(model(torch.tensor([[5]]))[0, -1].detach(), top_k=3, temperature=2.0)
    generator = torch.Generator().manual_seed(0)
    drawn = [
        next(sample(model, [5], max_tokens=1, top_k=3, temperature=2.0, generator=generator))
        for _ in range(2000)
    ]
    counts = torch.bincount(torch.tensor(drawn), minlength=17) / 2000
    assert int((counts > 0).sum()) == 3
    assert (counts - want).abs().max() < 0.04  # over 3.5 standard deviations


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": -1}, "max_tokens must be at least 0; got -1"),
        ({"temperature": -0.1}, "temperature must be finite and at least 0; got -0.1"),
        ({"temperature": math.inf}, "temperature must be finite and at least 0; got inf"),
        ({"top_k": 0}, "top_k must be at least 1; got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1; got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1; got 1.5"),
        ({"tokens": []}, "a prompt must hold at least one token"),
        ({"tokens": [3, 17]}, "token ids must be from 0 to 16; got 17"),
        ({"tokens": [-1]}, "token ids must be from 0 to 16; got -1"),
        ({"tokens": torch.zeros(1, 3)}, "one row of token ids; got a tensor of shape .1, 3."),
    ],
)
def test_bad_arguments_are_refused_at_the_call(options: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"tokens": [1], "max_tokens": 3, **options}
    with pytest.raises(ConfigError, match=words):
        sample(build(), arguments.pop("tokens"), **arguments)


def test_logits_that_are_not_finite_raise_an_error() -> None:
    model = build()
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    with pytest.raises(MetronormError, match="logits must be finite; got NaN"):
        next(sample(model, [1], max_tokens=1))


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-40, 1e-30])
def test_a_tiny_temperature_takes_the_most_likely_token(temperature: float) -> None:
    chances = probabilities(torch.tensor([1.0, 3.0, 2.0]), temperature=temperature)
    assert chances.tolist() == [0.0, 1.0, 0.0]
    tied = probabilities(torch.tensor([3.0, 3.0, 2.0]), temperature=temperature)
    assert tied.tolist() == [0.5, 0.5, 0.0]
