from dataclasses import replace

import pytest

from metronorm.errors import OutOfMemoryError
from metronorm.models.config import GPTConfig
from metronorm.tasks.text.memory import check_memory, check_model_memory


def test_a_micro_batch_that_cannot_fit_is_refused() -> None:
    config = GPTConfig(vocab_size=1000, context=100, layers=2, heads=2, width=48)
    least = 10 * 100 * (2 * 4 * 1000 + 8 * 2 * 2 * 48)
    check_memory(config, 10, available=least)
    with pytest.raises(OutOfMemoryError, match=r"10 x 100 tokens needs at least 0\.0 GiB"):
        check_memory(config, 10, available=least - 1)
    with pytest.raises(MemoryError, match="smaller --batch-size"):
        check_memory(config, 10**9)


def test_of_a_large_vocabulary_one_chunk_of_logits_must_fit() -> None:
    config = GPTConfig(vocab_size=50_000, context=100, layers=2, heads=2, width=48)
    for batch, logits in ((1, 4 * 100 * 50_000), (100, 128 << 20)):
        least = logits + batch * 100 * 8 * 2 * 2 * 48
        check_memory(config, batch, available=least)
        with pytest.raises(OutOfMemoryError, match="needs at least"):
            check_memory(config, batch, available=least - 1)


def test_a_model_that_cannot_fit_is_refused_before_it_is_made() -> None:
    config = GPTConfig(vocab_size=1000, context=100, layers=2, heads=2, width=48)
    tables, cache = 100 * 24, 2 * 2 * 2 * 100 * 24
    least = 4 * (3 * config.parameters + 8 * tables + cache)
    check_model_memory(config, copies=3, available=least)
    with pytest.raises(OutOfMemoryError, match=rf"a model of {config.parameters:,} parameters"):
        check_model_memory(config, copies=3, available=least - 1)
    with pytest.raises(MemoryError, match=r"smaller --model\.width"):
        check_model_memory(replace(config, layers=2**31 - 1))
    with pytest.raises(MemoryError, match=r"smaller --model\.width"):
        check_memory(replace(config, context=2**31 - 1), 1)
