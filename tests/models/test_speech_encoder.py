"""The encoder of speech, beside its equations in NumPy, and with padding that changes nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metronorm.errors import ConfigError
from metronorm.models.speech_encoder import SpeechEncoder


@pytest.fixture(autouse=True)
def _double() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def model(**options: Any) -> SpeechEncoder:
    torch.manual_seed(0)
    made = SpeechEncoder(6, 5, width=8, layers=2, heads=2, kernel=3, channels=3, **options)
    for name, weight in made.named_parameters():  # also what begins as 0 or 1 must count
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(weight, 0.3, 0.3)
    return made.eval()


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy())


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Equations:
    """The forward pass of one example without padding, in loops over frames."""

    def __init__(self, of: SpeechEncoder) -> None:
        self.w = {name: weight.detach().numpy() for name, weight in of.named_parameters()}

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def over_time(self, x: np.ndarray, name: str, stride: int, groups: int = 1) -> np.ndarray:
        """x is (time, channels)."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]  # (out, in, kernel)
        reach = weight.shape[2] // 2
        rows = []
        for middle in range(0, len(x), stride):
            row = bias.copy()
            for tap in range(weight.shape[2]):
                place = middle + tap - reach
                if 0 <= place < len(x):
                    depthwise = groups > 1
                    row += (
                        weight[:, 0, tap] * x[place] if depthwise else weight[:, :, tap] @ x[place]
                    )
            rows.append(row)
        return np.array(rows)

    def over_both(self, x: np.ndarray, name: str) -> np.ndarray:
        """x is (channels, time, bands); kernel 3 x 3, stride 2."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        edged = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        return np.stack(
            [
                np.stack(
                    [
                        np.einsum("oikl,ikl->o", weight, edged[:, t : t + 3, b : b + 3]) + bias
                        for b in range(0, x.shape[2], 2)
                    ],
                    axis=-1,
                )
                for t in range(0, x.shape[1], 2)
            ],
            axis=1,
        )

    def attention(self, x: np.ndarray, name: str, heads: int = 2) -> np.ndarray:
        time, width = x.shape
        size = width // heads
        qkv = self.linear(x, f"{name}.qkv").reshape(time, 3, heads, size)
        angles = np.arange(time)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)

        def turn(part: np.ndarray) -> np.ndarray:  # (time, size)
            one, other = part[:, : size // 2], part[:, size // 2 :]
            cos, sin = np.cos(angles), np.sin(angles)
            return np.concatenate([one * cos - other * sin, other * cos + one * sin], axis=1)

        mixed = []
        for head in range(heads):
            q, k, v = turn(qkv[:, 0, head]), turn(qkv[:, 1, head]), qkv[:, 2, head]
            scores = np.exp(q @ k.T / size**0.5)
            mixed.append(scores / scores.sum(1, keepdims=True) @ v)
        return self.linear(np.concatenate(mixed, axis=1), f"{name}.out")

    def block(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x + self.attention(self.norm(x, f"{name}.attention_norm"), f"{name}.attention")
        part = f"{name}.convolution"
        value, gate = np.split(
            self.linear(self.norm(x, f"{name}.convolution_norm"), f"{part}.gated"), 2, axis=1
        )
        mixed = self.over_time(value * sigmoid(gate), f"{part}.depthwise", 1, groups=x.shape[1])
        mixed = self.norm(mixed, f"{part}.norm")
        x = x + self.linear(mixed * sigmoid(mixed), f"{part}.out")
        up = self.linear(self.norm(x, f"{name}.mlp_norm"), f"{name}.mlp.up")
        return x + self.linear(up * sigmoid(up), f"{name}.mlp.out")

    def __call__(self, x: np.ndarray, stem: str, pooled: bool) -> np.ndarray:
        if stem == "time":
            x = gelu(self.over_time(x, "stem.first", 2))
            x = gelu(self.over_time(x, "stem.second", 2))
        else:
            both = gelu(self.over_both(gelu(self.over_both(x[None], "stem.first")), "stem.second"))
            x = self.linear(both.transpose(1, 0, 2).reshape(both.shape[1], -1), "stem.linear")
        for layer in range(2):
            x = self.block(x, f"blocks.{layer}")
        x = self.norm(x, "norm")
        return self.linear(x.mean(0) if pooled else x, "head")


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("stem", ["time", "time-frequency"])
def test_it_is_its_equations_whatever_is_in_the_padding(stem: str, pooled: bool) -> None:
    made = model(stem=stem, pooled=pooled)
    chance = np.random.default_rng(1)
    lengths = [13, 16, 5, 1]
    features = chance.normal(size=(4, 16, 6)) * 100
    for row, length in zip(features, lengths, strict=True):
        row[:length] /= 100
    with torch.no_grad():
        got, kept = made(torch.from_numpy(features), torch.tensor(lengths))
    assert kept.tolist() == [4, 4, 2, 1]
    equations = Equations(made)
    for place, length in enumerate(lengths):
        wanted = equations(features[place, :length], stem, pooled)
        found = got[place] if pooled else got[place, : kept[place]]
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_gradients_do_not_come_from_the_padding() -> None:
    made = model()
    features = torch.randn(2, 16, 6, requires_grad=True)
    outputs, kept = made(features, torch.tensor([16, 7]))
    outputs[1, : kept[1]].square().sum().backward()
    assert features.grad is not None
    assert features.grad[1, :7].abs().min() > 0
    assert not features.grad[1, 7:].any()
    assert not features.grad[0].any()


@pytest.mark.parametrize("options", [{"heads": 3}, {"heads": 8}, {"kernel": 4}])
def test_sizes_that_do_not_fit_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="even parts, and the kernel be odd"):
        SpeechEncoder(6, 5, width=8, **options)
