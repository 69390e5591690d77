"""A small model with every norm layer once, for features that must work with all of them."""

from torch import Tensor, nn

from metronorm.norm import AddLayerNorm, AddRMSNorm, LayerNorm, LayerNorm2d, RMSNorm
from metronorm.norm.checks import Save

WIDTH = 8


class Everything(nn.Module):
    """Maps (batch, WIDTH) to (batch, WIDTH)."""

    def __init__(self, dropout: float = 0.0, save: Save = "input") -> None:
        super().__init__()
        self.image = LayerNorm2d(2, save=save)
        self.norm = LayerNorm(WIDTH, save=save)
        self.rms = RMSNorm((2, WIDTH // 2), save=save)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.add = AddLayerNorm(WIDTH, dropout=dropout, save=save)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.add_rms = AddRMSNorm(WIDTH, dropout=dropout, save=save)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(x.unflatten(1, (2, 2, WIDTH // 4))).flatten(1)
        stream = self.norm(image + x)
        first = self.first(self.rms(stream.unflatten(1, (2, WIDTH // 2))).flatten(1))
        normed, stream = self.add(first, stream)
        normed, stream = self.add_rms(self.second(normed), stream)
        return normed + stream
