"""The parts of torch without a public name still behave as in torch 2.13, where they were read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed import FileStore, destroy_process_group, init_process_group
from torch.distributed.fsdp import FullyShardedDataParallel
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


def test_calls_at_the_end_come_in_their_order_and_can_queue_others() -> None:
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
    """In a hook of a leaf the one that accumulates; at the end none, or the one around it."""
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


def test_a_version_counts_changes_of_the_memory() -> None:
    """A view shares the version of its base, and `.data` has its own."""
    tensor = torch.zeros(4)
    view, data = tensor.view(2, 2), tensor.data
    before = _torch_private.version(tensor)
    view.add_(1.0)
    assert _torch_private.version(tensor) == _torch_private.version(view) == before + 1
    assert _torch_private.version(data) == 0
    torch.autograd.graph.increment_version(tensor)
    assert _torch_private.version(view) == before + 2


@pytest.mark.filterwarnings("ignore:FSDP is switching to use")  # of a single process
@pytest.mark.parametrize("original", [False, True])
def test_parameters_of_fsdp1_are_known(original: bool, tmp_path: Path) -> None:
    assert not _torch_private.is_flattened(nn.Parameter(torch.ones(2)))
    init_process_group("gloo", store=FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = FullyShardedDataParallel(
            nn.Linear(2, 2), use_orig_params=original, device_id=torch.device("cpu")
        )
        assert all(map(_torch_private.is_flattened, model.parameters()))
    finally:
        destroy_process_group()


def test_buffers_of_a_module_are_those_that_it_uses() -> None:
    module = nn.Module()
    module.register_buffer("some", torch.zeros(1))
    module.register_buffer("none", None)
    buffers = _torch_private.buffers_of(module)
    assert list(buffers) == ["some", "none"]
    buffers["some"] = other = torch.ones(1)
    assert module.some is other


def test_the_compiler_stays_out_of_a_method() -> None:
    seen = []

    @_torch_private.without_compiler
    def method(x: Tensor) -> Tensor:
        seen.append(torch.compiler.is_compiling())
        return x + 1

    compiled = torch.compile(lambda x: method(x) * 2, backend="eager")
    assert compiled(torch.ones(1)).item() == 4.0
    assert seen == [False]


def test_a_grad_scaler_hands_over_its_scale() -> None:
    """And it leaves the gradient as it is."""
    found = []

    @_torch_private.takes_grad_scale
    class Scaled(torch.optim.SGD):
        grad_scale: Any
        found_inf: Any

        def step(self, closure: Any = None) -> Any:
            found.extend([self.grad_scale.item(), self.found_inf.item()])

    parameter, amp = nn.Parameter(torch.ones(1)), GradScaler("cpu", init_scale=1024.0)
    amp.scale(3 * parameter).backward()
    amp.step(Scaled([parameter], 0.1))
    assert found == [1024.0, 0.0]
    assert parameter.grad.item() == 3 * 1024.0


def test_each_tensor_is_changed_in_place() -> None:
    tensors = [torch.ones(2), torch.ones(3)]
    _torch_private.add_each(tensors, [torch.ones(2), torch.ones(3)], factor=2.0)
    assert [each.tolist() for each in tensors] == [[3.0] * 2, [3.0] * 3]
    _torch_private.multiply_each(tensors, 0.5)
    assert [each.tolist() for each in tensors] == [[1.5] * 2, [1.5] * 3]
    _torch_private.zero_each(tensors)
    assert [each.tolist() for each in tensors] == [[0.0] * 2, [0.0] * 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_are_multiplied_by_a_tensor(dtype: torch.dtype) -> None:
    """Rounded as by a number, whatever the dtype of the factor."""
    for factor in (torch.tensor(1 / 3, dtype=torch.float64), torch.tensor(0.25, dtype=dtype)):
        tensors, others = ([torch.arange(9, dtype=dtype)] for _ in range(2))
        _torch_private.multiply_each(tensors, factor)
        _torch_private.multiply_each(others, factor.item())
        assert torch.equal(tensors[0], others[0])
        assert tensors[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_of_each_does_not_overflow_and_shows_nan(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max
    for value in (large, -large, float("inf"), float("-inf"), float("nan")):
        tensors = [torch.zeros(70, dtype=dtype), torch.zeros(2, 3, dtype=dtype)]
        tensors[1][1, 0] = value
        zero, found = _torch_private.largest_of_each(tensors)
        assert zero.item() == 0
        assert found.shape == ()
        assert str(found.item()) == str(abs(value))
        meta = _torch_private.largest_of_each([each.to("meta") for each in tensors])
        assert [each.shape for each in meta] == [(), ()]


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.51, 0.9, 0.999])
@pytest.mark.parametrize("numel", [0, 1, 7, 1 << 18])
def test_a_gradient_and_its_momentum_buffer_may_be_one_tensor(
    numel: int, momentum: float, decay: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(numel, generator=generator, dtype=torch.float64) for _ in range(4)]
    parameters, sums = [each.clone() for each in drawn[:2]], [each.clone() for each in drawn[2:]]
    _torch_private.move_and_multiply(parameters, sums, factor=-0.1, momentum=momentum, decay=decay)
    for p, c, start, total in zip(parameters, sums, drawn[:2], drawn[2:], strict=True):
        whole = total + decay * start
        torch.testing.assert_close(p, start - 0.1 * whole, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(c, momentum * whole, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("numel", [1, 7, 1 << 18])
def test_a_flag_makes_the_fused_sweep_do_nothing(numel: int) -> None:
    parameter, total = torch.randn(numel), torch.full((numel,), torch.nan)
    before = parameter.clone()
    for held in (torch.tensor(True), torch.tensor(False)):
        _torch_private.move_and_multiply(
            [parameter], [total], factor=-0.1, momentum=0.9, decay=0.1, held=held
        )
        assert torch.equal(parameter, before) == held.item()
    assert parameter.isnan().all()


def test_a_flag_makes_a_fused_optimizer_do_nothing() -> None:
    """Also its count of steps stays; and the attribute is gone after a step, and after an error."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], 0.1, fused=True)
    for held, steps in ((True, 0), (False, 1), (True, 1), (False, 2)):
        before = parameter.detach().clone()
        parameter.grad = torch.full((3,), torch.nan if held else 1.0)
        flag = _torch_private.found_inf(torch.tensor(held))
        assert flag is not None
        assert flag.dtype == torch.float32  # the kernels read its memory as that
        _torch_private.step_with_found_inf(optimizer, flag)
        assert torch.equal(parameter, before) == held
        assert optimizer.state[parameter]["step"].item() == steps
        assert not hasattr(optimizer, "found_inf")
    assert _torch_private.found_inf(None) is None
    parameter.data = parameter.data.to(torch.float64)
    with pytest.raises(RuntimeError):
        _torch_private.step_with_found_inf(optimizer, flag)
    assert not hasattr(optimizer, "found_inf")


def test_it_is_known_whether_the_processor_multiplies_bfloat16() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in ("DEFAULT", "AVX2"):
        assert not _torch_private.multiplies_bfloat16()
    elif capability == "AVX512":
        assert _torch_private.multiplies_bfloat16()
    else:
        pytest.skip(f"not known of {capability}")
