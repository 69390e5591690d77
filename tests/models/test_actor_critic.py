"""Actor and critic: their parts, and what they see."""

import pytest
import torch

from metronorm.models.actor_critic import ActorCritic
from metronorm.norm import LayerNorm


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_what_is_seen_is_scaled(norm: str) -> None:
    torch.manual_seed(0)
    agent = ActorCritic(3, 5, width=8, norm=norm)  # type: ignore[arg-type]
    norms = [module for module in agent.modules() if isinstance(module, LayerNorm)]
    assert len(norms) == (4 if norm == "layer" else 0)
    seen = torch.randn(7, 3)
    choice, value = agent(seen)
    assert (choice.probs.shape, value.shape) == ((7, 5), (7,))
    assert torch.allclose(choice.probs, torch.full((7, 5), 0.2), atol=0.02)  # undecided at first
    agent.mean.fill_(2.0)
    agent.scale.fill_(3.0)
    again, same = agent(3 * seen + 2)
    assert torch.allclose(again.logits, choice.logits, atol=1e-5)
    assert torch.allclose(same, value, atol=1e-5)
    far = [agent(torch.full((1, 3), each))[1] for each in (1e4, 1e9)]
    assert torch.equal(*far)
    assert {"mean", "scale"} <= agent.state_dict().keys()
