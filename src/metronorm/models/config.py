"""Sizes and choices of the models, and presets. It imports no framework: `--help` stays fast."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from metronorm.errors import ConfigError
from metronorm.scalars import is_integer, is_number

if TYPE_CHECKING:
    from collections.abc import Mapping

Norm = Literal["layer", "rms"]
Mlp = Literal["gelu", "gelu_tanh", "swiglu"]
Positions = Literal["learned", "rotary"]
NormPlace = Literal["before", "after"]

LARGE_VOCABULARY = 1 << 14


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    Raises:
        ConfigError: a size or a choice is not valid, or two of them do not fit together.
    """

    vocab_size: int = 256
    """Number of different tokens. `metronorm train` takes the tokenizer's number."""
    context: int = 256
    """Number of tokens that the model sees at once, at most."""
    layers: int = 6
    """Number of transformer blocks."""
    heads: int = 6
    """Number of attention heads; it must divide the width."""
    kv_heads: int | None = None
    """Number of heads of keys and values (grouped-query attention); it must divide heads. None: as
    many as heads."""
    width: int = 384
    """Size of the residual stream."""
    norm: Norm = "layer"
    """Normalization before each sub-layer and at the end: LayerNorm or RMSNorm."""
    mlp: Mlp = "gelu"
    """Activation of the feed-forward sub-layer. gelu: 4x width; gelu_tanh: GPT-2's form, slower on
    CPUs; swiglu: 8/3x width, which has as many parameters."""
    positions: Positions = "rotary"
    """rotary: rotate queries and keys by their position; learned: add one vector per position."""
    tie_embeddings: bool = True
    """Use the weight of the token embedding for the output layer too."""
    dropout: float = 0.0
    """Share of activations to drop in training. 0 is best unless the data is seen many times."""
    bias: bool = False
    """Give linear layers and LayerNorm a bias."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "heads", "width"):
            _check_positive(name, getattr(self, name))
        for name, choices in (("norm", Norm), ("mlp", Mlp), ("positions", Positions)):
            _check_choice(name, getattr(self, name), get_args(choices))
        for name in ("tie_embeddings", "bias"):
            _check_choice(name, getattr(self, name), (True, False))
        _check_heads(self.heads, self.width)
        if self.kv_heads is not None:
            _check_positive("kv_heads", self.kv_heads)
            if self.heads % self.kv_heads:
                raise ConfigError(
                    "kv_heads must divide heads",
                    got=f"kv_heads={self.kv_heads}, heads={self.heads}",
                    fix=f"kv_heads={_largest_divisor(self.heads, self.kv_heads)}",
                )
        if self.positions == "rotary" and self.head_size % 2:
            raise ConfigError(
                "rotary positions need an even head size (width / heads)",
                got=f"width={self.width}, heads={self.heads}: head size {self.head_size}",
                fix=f"width={self.width + self.heads}, or positions='learned'",
            )
        _check_dropout(self.dropout)

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads

    @property
    def key_heads(self) -> int:
        """Heads that keys and values have: `kv_heads`, or `heads` where that is None."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def hidden(self) -> int:
        """Inner size of the feed-forward sub-layer."""
        return _round_up(8 * self.width // 3, 32) if self.mlp == "swiglu" else 4 * self.width

    @property
    def has_large_vocabulary(self) -> bool:
        """Whether logits take so much memory that the loss is better computed without them."""
        return self.vocab_size >= LARGE_VOCABULARY

    @property
    def parameters(self) -> int:
        """The number of parameters, computed without building the model."""
        width, bias = self.width, int(self.bias)
        norm = width * (1 + (bias if self.norm == "layer" else 0))
        mixed = (self.heads + 2 * self.key_heads) * self.head_size
        inner = self.hidden * (2 if self.mlp == "swiglu" else 1)
        linear = ((width, mixed), (width, width), (width, inner), (self.hidden, width))
        block = 2 * norm + sum((before + bias) * after for before, after in linear)
        tables = (1 if self.tie_embeddings else 2) * self.vocab_size
        tables += self.context if self.positions == "learned" else 0
        return tables * width + self.layers * block + norm


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder; the defaults are for training from scratch, not those of BERT.

    Raises:
        ConfigError: a size or a choice is not valid, or two of them do not fit together.
    """

    vocab_size: int = 256
    """Number of different tokens."""
    context: int = 512
    """Number of tokens of a text, at most."""
    layers: int = 6
    """Number of transformer blocks."""
    heads: int = 6
    """Number of attention heads; it must divide the width."""
    width: int = 384
    """Size of a token's vector."""
    hidden: int | None = None
    """Inner size of the feed-forward sub-layer. None: 4x width."""
    norm_place: NormPlace = "before"
    """before: normalize what a sub-layer reads, and at the end; after: normalize the sum of what a
    sub-layer reads and writes, and the embeddings, as BERT does."""
    mlp: Mlp = "gelu"
    """Activation of the feed-forward sub-layer: gelu or gelu_tanh."""
    types: int = 0
    """Number of kinds of tokens, such as those of a first and of a second text; 0: none."""
    eps: float = 1e-5
    """What LayerNorm adds to the variance. BERT: 1e-12."""
    dropout: float = 0.0
    """Share of activations and attention weights to drop in training."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "heads", "width"):
            _check_positive(name, getattr(self, name))
        if self.hidden is not None:
            _check_positive("hidden", self.hidden)
        if self.types != 0:
            _check_positive("types", self.types)
        _check_choice("norm_place", self.norm_place, get_args(NormPlace))
        _check_choice("mlp", self.mlp, ("gelu", "gelu_tanh"))
        _check_heads(self.heads, self.width)
        _check_dropout(self.dropout)

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads

    @property
    def inner(self) -> int:
        """Inner size of the feed-forward sub-layer."""
        return 4 * self.width if self.hidden is None else self.hidden


def preset(name: str) -> GPTConfig:
    """The preset with this name; `dataclasses.replace` makes a copy with other fields.

    Raises:
        ConfigError: no preset has this name.
    """
    _check_choice("preset", name, tuple(PRESETS))
    return PRESETS[name]


def _check_positive(name: str, value: object) -> None:
    if not is_integer(value) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1", got=repr(value))
    if value >= 2**31:
        raise ConfigError(f"{name} must be below 2**31", got=repr(value))


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices or isinstance(value, bool) != isinstance(choices[0], bool):
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name} must be one of {listed}", got=repr(value))


def _check_heads(heads: int, width: int) -> None:
    if width % heads:
        raise ConfigError(
            "heads must divide width",
            got=f"heads={heads}, width={width}",
            fix=f"heads={_largest_divisor(width, heads)}, or width={_round_up(width, heads)}",
        )


def _check_dropout(dropout: object) -> None:
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise ConfigError(
            "dropout must be at least 0 and below 1", got=repr(dropout), fix="dropout=0.1"
        )


def _largest_divisor(number: int, at_most: int) -> int:
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


PRESETS: Mapping[str, GPTConfig] = MappingProxyType(
    {
        # 0.9 M parameters: three minutes on two CPU cores
        "quick": GPTConfig(vocab_size=1024, context=128, layers=4, heads=4, width=128),
        # 11 M parameters: one to two hours on two CPU cores
        "small": GPTConfig(vocab_size=1024),
        # 124 M parameters: the shape of the GPT-2 weights
        "gpt2": GPTConfig(
            vocab_size=50257,
            context=1024,
            layers=12,
            heads=12,
            width=768,
            mlp="gelu_tanh",
            positions="learned",
            bias=True,
        ),
    }
)
