"""Private APIs of torch that the norms need, one function each; read in torch 2.13.

Every docstring gives the reason and what the public API offers instead.
`tests/norm/test_torch_private.py` fails when a later torch changes one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def below_autograd(operator: Any, *args: Any) -> Any:
    """Call an operator's kernel and record nothing for autograd.

    Reason: an operator that is registered with `torch.library.register_autograd` passes through a
    wrapper in Python at every call, also under `torch.no_grad()`. That takes longer than the kernel
    of a small norm. Public alternative: call the operator itself; the numbers are the same.
    """
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is active, or a level of forward-mode differentiation.

    Reason: both differentiate torch's own operators only. Public alternative: none.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def has_no_values(tensor: Tensor) -> bool:
    """Whether a tensor has a shape but no numbers: on the meta device, or fake.

    Reason: `torch.export` and `make_fx` trace with fake tensors, which raise an error when one of
    their numbers is asked for. Public alternative: none; `Tensor.is_meta` is False for them.
    """
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def remove_kernels(library: torch.library.Library) -> None:
    """Take back, now, what a library has registered.

    Reason: the kernels that it replaced must be in use when this function returns. Public
    alternative: delete the last reference to the library; when that happens is not certain while
    a traceback, for example, holds another one.
    """
    library._destroy()


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The parameters of a module itself by name, with None where it has declared one without value.

    Reason: the declared names belong to a layer's interface. Public alternative:
    `named_parameters(recurse=False)`, which leaves out the parameters that are None.
    """
    return module._parameters


def set_parameters(module: nn.Module, parameters: Mapping[str, Tensor | None]) -> None:
    """Replace all parameters of a module itself; their order becomes that of `parameters`.

    Reason: `register_parameter` appends, refuses plain tensors, and can be overridden in a module
    of somebody else. Public alternative: `torch.func.functional_call`, which calls the module's
    hooks too and changes the module itself during the call.
    """
    module._parameters = dict(parameters)  # type: ignore[arg-type]


def has_hooks(module: nn.Module) -> bool:
    """Whether any hook is registered on a module: forward, backward or of its state dict.

    Reason: hooks would be lost with the module. Public alternative: none; they can be registered,
    but not listed.
    """
    return any(getattr(module, name, None) for name in _HOOKS)
