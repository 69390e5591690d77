"""What one would write by hand: a GPT and its training step in plain fp32 PyTorch.

GPT-2's architecture without biases, as small CPU trainings usually run it: `torch.nn.LayerNorm`,
`scaled_dot_product_attention`, no autocast, AdamW and gradient clipping as torch has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

if TYPE_CHECKING:
    from metronorm.models.config import GPTConfig


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        split = self.qkv(self.norm1(x)).split(width, dim=2)
        q, k, v = (one.view(batch, time, self.heads, -1).transpose(1, 2) for one in split)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).contiguous().view(batch, time, width))
        hidden: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + hidden


class PlainGPT(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(
            PlainBlock(config.width, config.heads) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))

    def load_ours(self, weights: dict[str, Tensor]) -> None:
        """Take over the weights of a `metronorm.models.GPT` of the same architecture."""
        names = {
            "attention_norm": "norm1",
            "mlp_norm": "norm2",
            "attention.qkv": "qkv",
            "attention.out": "out",
            "mlp.up": "up",
            "mlp.out": "down",
        }
        renamed = {}
        for name, weight in weights.items():
            for ours, plain in names.items():
                name = name.replace(f".{ours}.", f".{plain}.")
            renamed[name] = weight
        self.load_state_dict(renamed)


class PlainLoop:
    """The model, torch's AdamW, and a step."""

    def __init__(self, config: GPTConfig, learning_rate: float) -> None:
        self.model = PlainGPT(config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1
        )

    def step(self, tokens: Tensor, targets: Tensor) -> float:
        loss = self.model(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
