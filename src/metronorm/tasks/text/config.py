"""What can be chosen about the training of a GPT on text. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from metronorm.data.config import TextConfig
from metronorm.errors import ConfigError
from metronorm.models.config import GPTConfig, preset
from metronorm.train.config import TrainConfig, check_count, on_resume


@dataclass(frozen=True)
class Config(TrainConfig):
    """A training of a GPT on text.

    Raises:
        ConfigError: a value that cannot work, or that does not go with another.
    """

    # The cache that a run had is never used again on resume: the run may be somebody else's, and
    # the cache is written to. The vocabulary is the text's, and that must be the same text.
    text: Annotated[TextConfig, tyro.conf.arg(name="")] = field(
        default_factory=TextConfig,
        metadata={
            "on_resume": {
                "data": "data",
                "validation_data": "data",
                "column": "data",
                "tokenizer_file": "data",
                "cache": "free",
            }
        },
    )
    model: GPTConfig = field(
        default_factory=lambda: preset("quick"), metadata={"on_resume": {"vocab_size": "free"}}
    )
    evaluate_tokens: int = on_resume("free", 65_536)
    """Number of tokens of the validation text, evenly spread, that an evaluation reads at most.
    0: all of them."""
    sample_every: int = on_resume("free", 500)
    """Ticks between two samples that are printed in the training; 0 prints none."""
    sample_tokens: int = on_resume("free", 200)
    """Length of a printed sample, in tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("evaluate_tokens", "sample_every", "sample_tokens"):
            check_count(name, getattr(self, name), 0)
        if 0 < self.evaluate_tokens < self.model.context:
            raise ConfigError(
                "evaluate_tokens must be 0 (all) or at least one context",
                got=f"evaluate_tokens={self.evaluate_tokens}, context={self.model.context}",
            )


def without_cache(config: Config) -> Config:
    """The config as a resumed run has it: with the default cache, whatever its own was."""
    return replace(config, text=replace(config.text, cache=None))
