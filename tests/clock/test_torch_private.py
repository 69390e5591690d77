"""The private names of torch that the clock uses: they exist in this torch, and mean the same."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from metronorm.clock import _torch_private as private

READ_IN = "read in torch 2.13: see metronorm.clock._torch_private"


def test_a_running_backward_pass_is_known() -> None:
    assert hasattr(torch._C, "_current_graph_task_id"), READ_IN
    assert not private.runs_backward(None)
    assert not private.runs_backward(torch)
    seen: list[bool] = []
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda gradient: seen.append(private.runs_backward(torch)))
    (2 * x).backward()
    assert seen == [True], READ_IN


def test_callbacks_run_at_the_end_of_a_backward_pass_in_order() -> None:
    seen: list[str] = []
    x = torch.ones(1, requires_grad=True)

    def queue(gradient: object) -> None:
        private.at_end_of_backward(torch, lambda: seen.append("first"))
        private.at_end_of_backward(torch, lambda: seen.append("second"))
        seen.append("hook")

    x.register_hook(queue)
    (2 * x).backward()
    assert seen == ["hook", "first", "second"], READ_IN
    with pytest.raises(RuntimeError):
        private.at_end_of_backward(torch, lambda: None)


def test_calls_of_a_compiled_module_go_to_its_compiled_call() -> None:
    model = nn.Linear(1, 1)
    assert private.compiled_call(model) is None
    model.compile(backend="eager")
    assert private.compiled_call(model) is not None, READ_IN
    marker: Any = object()
    private.set_compiled_call(model, lambda x: marker)
    assert model(torch.ones(1)) is marker, READ_IN


def test_optimizers_take_step_hooks_and_their_wrappers_may_not() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    assert private.takes_step_hooks(optimizer), READ_IN
    assert not private.takes_step_hooks(torch.optim.SGD.__new__(torch.optim.SGD)), READ_IN


def test_collectives_of_fully_shard_are_attributes_of_parameter_groups() -> None:
    """`tests/clock/test_collective.py` measures real ones, in several processes."""
    assert private.parameter_groups(nn.Linear(1, 1)) == []
    assert hasattr(FSDPModule, "_get_fsdp_state"), READ_IN
    setters = (FSDPModule.set_custom_all_gather, FSDPModule.set_custom_reduce_scatter)
    for name, setter in zip(private.COLLECTIVES, setters, strict=True):
        source = inspect.getsource(setter)
        assert f".{name} = " in source, READ_IN
        assert "_fsdp_param_group" in source, READ_IN
