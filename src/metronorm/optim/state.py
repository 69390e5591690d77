"""What an optimizer of ticks keeps: the sums, which are `.grad` too; to and from disk.

On disk goes whether beats were added to a sum since the last tick; `beats.py` tells that.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.optim import Optimizer

from metronorm.errors import ConfigError
from metronorm.optim import checks
from metronorm.optim.beats import Beats
from metronorm.optim.blocks import accumulate_in_float32, alone, sum_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from metronorm.optim.checks import Group

SUM = "accumulated"


class Sums(Optimizer):
    """An optimizer with a sum for every parameter, that can be stopped and gone on with anywhere.

    Per parameter, `state` holds `accumulated` (c, of the parameter's shape; float32 for half
    precision), `momentum` (what c was last multiplied by), `open` (whether beats of an unfinished
    window were added to c) and `apart` (whether c cannot be `.grad`, which somebody else has the
    memory of, such as the buckets of DDP).
    """

    # what the state of a parameter can hold
    _state_names = frozenset({SUM, "momentum", "open", "window", "pending", "apart"})
    # attributes that a copy keeps
    _own = frozenset({"_limits", "_told", "gradient_norm", "skipped"})
    _alive: ClassVar[weakref.WeakSet[Sums]] = weakref.WeakSet()

    _beats: Beats

    def __init__(self, params: list[Any], defaults: Group) -> None:
        self._beats = Beats(self)
        super().__init__(params, defaults)
        self._alive.add(self)

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, and begin to watch their gradients."""
        parameters = checks.tensors(param_group)
        left = [each for each in parameters if self._left_by_another(each)]
        super().add_param_group(param_group)
        for parameter in left:
            parameter.grad = None
        for parameter in parameters:
            accumulate_in_float32(parameter)
            self._beats.watch(parameter)

    def _left_by_another(self, parameter: Tensor) -> bool:
        """Whether `.grad` is what another optimizer carries, and no gradient."""
        other = self._of_another(parameter)
        if other is not None and other._beats.open(parameter, other.state[parameter]):
            raise ConfigError(
                "a new optimizer can take over between two windows",
                got="beats of an unfinished one, added to what another optimizer carries",
                fix="step() of the other one first, or model.zero_grad(), which drops both",
            )
        return other is not None

    def _of_another(self, parameter: Tensor) -> Sums | None:
        """The other optimizer whose sum `.grad` is."""
        for other in self._alive:
            carried = None if other is self else other._sum(parameter)
            if carried is not None and carried is parameter.grad:
                return other
        return None

    def _is_apart(self, group: Group) -> bool:
        """Whether the windows of a group are kept apart from what is carried."""
        raise NotImplementedError

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def _sum(self, parameter: Tensor) -> Tensor | None:
        """What is carried; as `.grad` has it, if that is another tensor over the same memory."""
        state = self.state.get(parameter)
        carried: Tensor | None = state.get(SUM) if state else None
        if carried is None or parameter.grad is None or parameter.grad is carried:
            return carried
        assert state is not None
        state[SUM] = self._beats.adopted(parameter, carried)
        found: Tensor = state[SUM]
        return found

    @staticmethod
    def _moved(parameter: Tensor, carried: Tensor) -> bool:
        """Whether a sum in `.grad` may have to follow; devices it has followed already."""
        dtype = carried.dtype
        return dtype is not parameter.dtype or dtype.itemsize < 4

    def _followed(self, parameter: Tensor, carried: Tensor) -> Tensor:
        """The sum where its parameter is now and no less precise: model.to() moves only `.grad`."""
        dtype = sum_dtype(parameter)
        if carried.dtype == dtype and carried.device == parameter.device:
            return carried
        attached, changed = parameter.grad is carried, self._beats.changed(parameter)
        self.state[parameter][SUM] = moved = carried.to(parameter.device, dtype)
        if attached:
            parameter.grad = None
        accumulate_in_float32(parameter)
        if attached:
            parameter.grad = moved
        self._beats.look(parameter, moved, changed=changed)
        return moved

    def hold_versions(self) -> Callable[[], None]:
        """For who changes sums and then puts them back: call what this returns after that."""
        return self._beats.hold()

    def _close(self) -> None:
        """Take the beats of an unfinished window for part of what was carried before it."""
        self._beats.tick()
        for parameter in self._parameters():
            carried = self._sum(parameter)
            if carried is not None:
                self.state[parameter]["open"] = False
                self._beats.look(parameter, carried)

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
                state[index]["open"] = self._beats.open(parameter, self.state[parameter])
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
            self._beats.forget(parameter)
            if values:
                self.state[parameter] = values
        self._beats.tick()
        self._attach()

    def _attach(self) -> None:
        """Let autograd go on adding into the sums that are not kept apart."""
        for group in self.param_groups:
            for parameter in group["params"]:
                carried = self.state[parameter].get(SUM) if parameter in self.state else None
                if carried is not None:
                    self._beats.look(parameter, carried)
                    apart = self.state[parameter]["apart"] or self._is_apart(group)
                    if parameter.grad is None and not apart:
                        parameter.grad = carried

    def __getstate__(self) -> dict[str, Any]:
        fresh = {}  # copies of parameters come without gradients
        for parameter in self._parameters():
            carried = self._sum(parameter)
            if carried is not None:
                state = self.state[parameter]
                state["open"] = self._beats.open(parameter, state)
                self._beats.look(parameter, carried)
            if parameter.grad is not None and parameter.grad is not carried:
                fresh[parameter] = parameter.grad
        mine = {k: v for k, v in vars(self).items() if k in self._own}
        return {**super().__getstate__(), **mine, "fresh": fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fresh = state.pop("fresh", None)
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("carry", "auto")  # an older state has none
        if fresh is None:  # the base class loads a state
            return
        self._beats = Beats(self)  # a copy or what was unpickled: other tensors
        self._alive.add(self)
        for parameter in self._parameters():
            accumulate_in_float32(parameter)
            parameter.grad = fresh.get(parameter)
            self._beats.watch(parameter)
        self._attach()
