"""An adapted model as the loop trains it: a batch in, its summed loss out.

The loop's checkpoints hold what trains. What is frozen is in the base model's own files, so it is
left out of the state, and a fingerprint of it is kept instead; see `base.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metronorm.finetune.architectures import features, head
from metronorm.loss import linear_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from metronorm.finetune.adapting import Adapted


class Tuned(nn.Module):
    """The losses of an adapted model.

    Args:
        adapted: what trains, and in what.
        class_weights: (classes,), of a classifier's labels; None: all 1.
        chunk: rows whose logits exist at once; None: as `linear_cross_entropy` chooses.
    """

    def __init__(
        self,
        adapted: Adapted,
        class_weights: NDArray[Any] | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.model: nn.Module = adapted.pretrained.model
        self.is_causal = adapted.pretrained.kind == "causal"
        weights = None if class_weights is None else torch.as_tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_state_dict_post_hook(_leave_out_frozen)  # type: ignore[no-untyped-call]

    def forward(
        self, batch: Mapping[str, Any], *, measure: bool = False, only_features: bool = False
    ) -> Any:
        """The cross entropy of a batch, in nats, summed over what counts.

        Args:
            batch: of texts to write, or to classify.
            measure: of a classifier, give the sums of an evaluation instead: the cross entropy
                without the weights of classes, and how many texts are classified right. They are
                computed here because FSDP2 gathers parameters when a model is called.
            only_features: give what the head gets, for the same reason.
        """
        if only_features:
            return features(self.model, batch)
        if not self.is_causal:
            logits, labels = class_logits(self.model, batch)
            if measure:
                loss = functional.cross_entropy(logits, labels, reduction="sum")
                return {"loss": loss, "accuracy": (logits.argmax(1) == labels).sum()}
            weights: Any = self.class_weights
            return functional.cross_entropy(logits, labels, weights, reduction="sum")
        hidden, top = features(self.model, batch), head(self.model)
        return linear_cross_entropy(
            hidden,
            top.weight,
            torch.as_tensor(batch["targets"]),
            bias=top.bias,
            weights=torch.as_tensor(batch["weights"]),
            soft_cap=top.soft_cap,
            scale=top.scale,
            chunk=self.chunk,
        )


def class_logits(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A classifier's logits (texts, classes), in float32, and the labels (texts,)."""
    hidden, top = features(model, batch), head(model)
    logits = functional.linear(hidden, top.weight.to(hidden.dtype), top.bias)
    return logits.float(), torch.as_tensor(batch["labels"]).to(logits.device)


def _leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def frozen(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that do not train, by name."""
    return {name: each for name, each in module.named_parameters() if not each.requires_grad}
