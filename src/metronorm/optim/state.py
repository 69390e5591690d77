"""What an optimizer of ticks keeps: the sums, which are `.grad` too; to and from disk.

Beats that autograd added to a sum are known by the version that torch counts for every tensor. On
disk goes only whether a sum has grown since the last tick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from metronorm.optim import checks
from metronorm.optim.blocks import alone, local, sum_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from metronorm.optim.checks import Group

SUM = "accumulated"


class Sums(Optimizer):
    """An optimizer with a sum for every parameter, that can be stopped and gone on with anywhere.

    Per parameter, `state` holds `accumulated` (c, of the parameter's shape; float32 for half
    precision), `momentum` (what c was last multiplied by), `open` (whether beats of an unfinished
    window were added to c by other ways than autograd's) and `apart` (whether c cannot be `.grad`,
    which somebody else has the memory of, such as the buckets of DDP).
    """

    # what the state of a parameter can hold
    _state_names = frozenset({SUM, "momentum", "open", "window", "pending", "apart"})
    # attributes that a copy keeps
    _own = frozenset({"_limits", "_apart", "_told", "gradient_norm", "skipped"})

    _apart = False  # whether all windows are kept apart from what is carried
    _versions: dict[Tensor, int]  # of the sums, when this optimizer last had them

    def _is_apart(self, group: Group) -> bool:
        """Whether the windows of a group are kept apart from what is carried."""
        return self._apart

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def _sum(self, parameter: Tensor) -> Tensor | None:
        if parameter not in self.state:
            return None
        found: Tensor | None = self.state[parameter].get(SUM)
        return found

    def _grown(self, parameter: Tensor, carried: Tensor) -> bool:
        """Whether something was added to `carried` since this optimizer last had it."""
        return local(carried)._version != self._versions[parameter]

    def hold_versions(self) -> Callable[[], None]:
        """For who changes sums and then puts them back: call what this returns after that."""
        sums = [(each, self._sum(each)) for each in self._parameters()]
        held = [(each, c, self._grown(each, c)) for each, c in sums if c is not None]

        def put_back() -> None:
            self._versions = {each: local(c)._version - grown for each, c, grown in held}

        return put_back

    def state_dict(self) -> dict[str, Any]:
        """The sums, what of an unfinished window is not in them yet, and the hyper-parameters.

        Per parameter, beside what the class says (nothing before the first tick): `window`, the
        gradients of an unfinished window that are not in the sum, and `pending`, whether there must
        be such. Loaded in the middle of a window, the run goes on exactly there.
        """
        plain = super().state_dict()
        state = {index: dict(values) for index, values in plain["state"].items()}
        for index, parameter in enumerate(self._parameters()):
            carried, fresh = self._sum(parameter), parameter.grad
            pending = fresh is not None and fresh is not carried
            if carried is not None:
                state[index]["open"] |= self._grown(parameter, carried)
                state[index]["pending"] = pending
            if fresh is not None and pending:
                state.setdefault(index, {})["window"] = alone(fresh)
        return {**plain, "state": state}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another optimizer of the same kind and parameters stood; tensors are copied.

        Raises:
            CheckpointError: the state of another kind of optimizer or of other shapes; nothing has
                changed.
        """
        parameters = list(self._parameters())
        given = checks.check_state(state_dict, self.param_groups, self._state_names)
        stale = set(self.state)
        # the base class would cast sums to the dtype of the parameters
        super().load_state_dict({**state_dict, "state": {}})
        for index, parameter in enumerate(parameters):
            values = {
                name: checks.copied(value, parameter)
                for name, value in given.get(index, {}).items()
            }
            if parameter in stale or values:
                parameter.grad = values.pop("window", None)
            values.pop("pending", None)
            self._versions.pop(parameter, None)
            if values:
                self.state[parameter] = values
        self._attach()

    def _attach(self) -> None:
        """Let autograd go on adding into the sums that are not kept apart."""
        for group in self.param_groups:
            for parameter in group["params"]:
                carried = self._sum(parameter)
                if carried is not None:
                    self._versions[parameter] = local(carried)._version
                    apart = self.state[parameter]["apart"] or self._is_apart(group)
                    if parameter.grad is None and not apart:
                        parameter.grad = carried

    def __getstate__(self) -> dict[str, Any]:
        fresh = {}  # copies of parameters come without gradients
        for parameter in self._parameters():
            carried = self._sum(parameter)
            if carried is not None:
                self.state[parameter]["open"] |= self._grown(parameter, carried)
                self._versions[parameter] = local(carried)._version
            if parameter.grad is not None and parameter.grad is not carried:
                fresh[parameter] = parameter.grad
        mine = {k: v for k, v in vars(self).items() if k in self._own}
        return {**super().__getstate__(), **mine, "fresh": fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fresh = state.pop("fresh", None)
        super().__setstate__(state)
        if fresh is None:  # the base class loads a state
            return
        self._versions = {}  # a copy or what was unpickled; tensors count their versions anew
        for parameter in self._parameters():
            accumulate_in_float32(parameter)
            parameter.grad = fresh.get(parameter)
        self._attach()


def accumulate_in_float32(parameter: Tensor) -> None:
    """Let autograd keep the gradient of a half-precision parameter in float32."""
    if parameter.dtype == sum_dtype(parameter):
        return
    given, parameter.grad = parameter.grad, None
    # FSDP sets .grad itself, at first in the dtype that it reduces in
    parameter.grad_dtype = torch.float32 if local(parameter) is parameter else None
    if given is not None:
        parameter.grad = given.float()
