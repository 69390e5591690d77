"""A text encoder in one file: every token sees every token, with the norms before or after.

With `norm_place="after"` it is BERT (Devlin et al., 2018, arXiv:1810.04805), whose weights
`load_encoder` reads; with "before", which trains without a warm-up of thousands of ticks (Xiong et
al., 2020, arXiv:2002.04745), it is for training from scratch. Read `Encoder` first, then `Block`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.norm import AddLayerNorm

if TYPE_CHECKING:
    from metronorm.models.config import EncoderConfig


class Attention(nn.Module):
    """Self-attention over the tokens that are not padding."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """Mix x, (batch, time, width), over time.

        Args:
            x: vectors of the tokens.
            visible: bool (batch, 1, 1, time), which tokens are seen; None: all.
        """
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, head size)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=visible, dropout_p=dropout
        )
        return cast("Tensor", self.out(mixed.transpose(1, 2).reshape(batch, time, width)))


class Mlp(nn.Module):
    """Feed-forward sub-layer: GELU."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.mlp == "gelu_tanh" else "none"
        self.up = nn.Linear(config.width, config.inner)
        self.out = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x, (batch, time, width), at every position separately."""
        return cast("Tensor", self.out(F.gelu(self.up(x), approximate=self.approximate)))


class Block(nn.Module):
    """Attention and feed-forward sub-layer, each with a norm that also adds the residual.

    | | first sub-layer | second sub-layer |
    | --- | --- | --- |
    | before | x + attention(norm(x)) | x + mlp(norm(x)) |
    | after | norm(x + attention(x)) | norm(x + mlp(x)) |
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)

    def before(
        self, x: Tensor, stream: Tensor | None, visible: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The output of the second sub-layer, and the stream that it is not yet added to."""
        normed, stream = self.attention_norm(x, stream)
        normed, stream = self.mlp_norm(self.attention(normed, visible), stream)
        return self.mlp(normed), stream

    def after(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """The block's output, (batch, time, width), normalized."""
        x = self.attention_norm(self.attention(x, visible), x)[0]
        return cast("Tensor", self.mlp_norm(self.mlp(x), x)[0])


class Encoder(nn.Module):
    """Transformer encoder with learned positions.

    Weights are initialized as in BERT: linear and embedding weights from N(0, 0.02), biases 0; with
    the norms before, weights that write into the residual stream from N(0, 0.02 / sqrt(2 layers)).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.types = nn.Embedding(config.types, config.width) if config.types else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        # Of the embeddings where the norms are after, of what the last block writes where before.
        self.norm = make_norm(config)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights from torch's default generator."""
        before = self.config.norm_place == "before"
        out_std = 0.02 / (2 * self.config.layers) ** 0.5 if before else 0.02
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=out_std if name.endswith(".out") else 0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, AddLayerNorm):
                module.reset_parameters()

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, *, types: Tensor | None = None
    ) -> Tensor:
        """The vector of every token, (batch, time, width).

        Args:
            tokens: token ids, (batch, time), with time at most `context`.
            lengths: tokens of each text, (batch,), from 1 on; those after them are padding, which
                no token sees, and whose vectors mean nothing. None: there is no padding.
            types: the kind of each token, (batch, time); None: all are of kind 0.

        Raises:
            ConfigError: there are more tokens than the context holds, or kinds that the model does
                not know.
        """
        time = tokens.shape[1]
        if time > self.config.context:
            raise ConfigError(
                f"a text must fit the encoder's context of {self.config.context} tokens",
                got=f"{time} tokens",
                fix="crop it, or build an encoder with a longer context",
            )
        x = self.tokens(tokens) + self.positions.weight[:time]  # (batch, time, width)
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.types(types))
        elif types is not None:
            raise ConfigError("tokens may have kinds where the encoder has them", got="types=0")
        visible = None if lengths is None else real(lengths, time)[:, None, None]
        if self.config.norm_place == "after":
            x = self.dropout(self.norm(x, None)[0])
            for block in self.blocks:
                x = cast("Block", block).after(x, visible)
            return cast("Tensor", x)
        x, stream = self.dropout(x), None
        for block in self.blocks:
            x, stream = cast("Block", block).before(x, stream, visible)
        return cast("Tensor", self.norm(x, stream)[0])

    def pooled(
        self, tokens: Tensor, lengths: Tensor | None = None, *, types: Tensor | None = None
    ) -> Tensor:
        """The mean over the tokens of each text, without padding, (batch, width).

        Arguments and errors are those of `forward`.
        """
        return mean_over_time(self(tokens, lengths, types=types), lengths)


def real(lengths: Tensor, time: int) -> Tensor:
    """Which tokens are not padding, bool (batch, time)."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def mean_over_time(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean of x, (batch, time, width), over the first tokens of each text, in its dtype.

    It is summed in float32 at least.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if lengths is None:
        return wide.mean(1).to(x.dtype)
    # What stands in padding may be anything, also infinity.
    kept = wide.masked_fill(~real(lengths, x.shape[1])[..., None], 0.0)
    return (kept.sum(1) / lengths[:, None]).to(x.dtype)


def make_norm(config: EncoderConfig) -> AddLayerNorm:
    """A norm that also adds the residual, with dropout."""
    return AddLayerNorm(config.width, eps=config.eps, dropout=config.dropout)
