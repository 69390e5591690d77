"""What of torch has no public name still does what is asked of it; read in torch 2.13."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metronorm.optim import _torch_private


def test_every_backward_has_a_number_of_its_own() -> None:
    parameter, numbers = nn.Parameter(torch.ones(1)), []
    parameter.register_post_accumulate_grad_hook(
        lambda _: numbers.append(_torch_private.current_backward())
    )
    for _ in range(3):
        (parameter * 2).backward()
    assert _torch_private.current_backward() == _torch_private.OUTSIDE
    assert len(set(numbers)) == 3
    assert _torch_private.OUTSIDE not in numbers


def test_calls_at_the_end_come_in_their_order_and_can_ask_for_others() -> None:
    parameter, calls = nn.Parameter(torch.ones(1)), []

    def first() -> None:
        calls.append("first")
        _torch_private.at_end_of_backward(lambda: calls.append("third"))

    def hook(_: Tensor) -> None:
        _torch_private.at_end_of_backward(first)
        _torch_private.at_end_of_backward(lambda: calls.append("second"))
        calls.append("hook")

    parameter.register_post_accumulate_grad_hook(hook)
    (parameter * 2).backward()
    assert calls == ["hook", "first", "second", "third"]


def test_the_node_that_runs_is_known() -> None:
    """Of a leaf's hook the one that accumulates; at the end none, or the one around it."""
    parameter, nodes = nn.Parameter(torch.ones(1)), []

    def note() -> None:
        nodes.append(_torch_private.running_node())

    def hook(_: Tensor) -> None:
        note()
        _torch_private.at_end_of_backward(note)

    parameter.register_hook(hook)
    (parameter * 2).backward()
    assert nodes[0].variable is parameter
    assert nodes[1] is None
    x = torch.ones(1, requires_grad=True)
    checkpoint(lambda x: x * parameter, x, use_reentrant=True).backward()
    assert nodes[2].variable is parameter
    assert nodes[3].name() == "CheckpointFunctionBackward"
    assert [next_node.variable is x for next_node, _ in nodes[3].next_functions if next_node] == [
        True
    ]
