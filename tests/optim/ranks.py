"""One of several processes that train on beats of their own: ddp|fsdp|fsdp1 RANK WORLD STORE.

Every case must end with the parameters that one process gets from the one big batch of all of them,
in float64, to rounding. The process prints every difference, and fails if one is larger.
"""

from __future__ import annotations

import io
import itertools
import sys
import traceback
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.errors import CheckpointError, ConfigError, DataError, DivergenceError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign, windows
from tests.optim.plan import (
    ADAM,
    Plan,
    make_model,
    make_optimizer,
    one_process,
    one_process_with_squares,
    rows,
)
from tests.side_by_side import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    Case = Callable[[], float | None]

FAMILY, RANK, WORLD = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ROUNDING = 1e-14  # of parameters near one, after a few hundred additions
CLIP = 1.0  # many windows' gradients are longer
SKIP = {"on_nonfinite": "skip"}
HOLD = {"on_nonfinite": "hold"}
PLAN = Plan(WORLD)


# --- training -------------------------------------------------------------------------------------


def ddp(plan: Plan = PLAN, **options: Any) -> Any:
    unused = plan.unused is not None
    return DistributedDataParallel(make_model(), find_unused_parameters=unused, **options)


def fsdp(*, deep: bool = False, mesh: Any = None) -> Any:
    """Gathered layer by layer, or all parameters together."""
    model = make_model()
    for layer in (model.inner, model.side) if deep else ():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def reducing(model: Any, now: bool) -> Any:
    """Whether gradients go between the ranks in the next backward()."""
    if isinstance(model, DistributedDataParallel | FullyShardedDataParallel):
        return nullcontext() if now else model.no_sync()
    model.set_requires_gradient_sync(now)
    return nullcontext()


def windows_of(plan: Plan, begin: int = 0, **options: Any) -> Any:
    return windows(plan.of_rank(RANK)[begin:], plan.beats, rows, **options)


def train(
    model: Any,
    optimizer: Any,
    beats: Any,
    *,
    no_sync: bool = False,
    take: bool = False,
    stop: int | None = None,
) -> None:
    """To the end, or for `stop` beats, and the tick if a window ends there.

    With `no_sync` gradients are reduced at a window's last beat only; with `take` the model's are
    taken away after every tick.
    """
    done = 0
    for window in beats:
        for batch, weight in window:
            with reducing(model, not no_sync or window.done == window.beats):
                (weight * model(batch)).backward()
            done += 1
            if done == stop and window.done < window.beats:
                return
        optimizer.step()
        if take:
            model.zero_grad()
        if done == stop:
            return


def far(model: nn.Module, wanted: list[Tensor]) -> float:
    """The largest difference of an element."""
    found = [p.detach() for p in model.parameters()]
    found = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in found]
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))


def refused(error: type[Exception], call: Callable[[], Any], part: str) -> None:
    try:
        call()
    except error as refusal:
        if part not in str(refusal):
            raise
    else:
        raise AssertionError(f"no {error.__name__}")


# --- cases ----------------------------------------------------------------------------------------


def sgd(
    wrap: Callable[[], Any],
    plan: Plan = PLAN,
    *,
    clip: float | None = None,
    options: Mapping[str, Any] = {},
    **loop: Any,
) -> float:
    """Ticks on all ranks, and SGD in one process."""
    model = wrap()
    optimizer = make_optimizer(Ticks, model, max_grad_norm=clip, **options)
    train(model, optimizer, windows_of(plan), **loop)
    return far(model, one_process(plan, clip=clip))


def itself(wrap: Callable[[], Any], kind: Any, **options: Any) -> float:
    """The optimizer on all ranks and in one process.

    The sums differ by 1e-16. Where they are rounded, to bfloat16 (Muon) or to a sign, that shows in
    one of 1e13 elements; so the tolerance is that of the others.
    """
    model = wrap()
    train(model, make_optimizer(kind, model, **options), windows_of(PLAN))
    return far(model, one_process(PLAN, kind, **options))


WAYS = {  # to save and load the state of an optimizer
    "state_dict": (
        lambda model, optimizer: optimizer.state_dict(),
        lambda model, optimizer, state: optimizer.load_state_dict(state),
    ),
    "checkpoint": (get_optimizer_state_dict, set_optimizer_state_dict),
    "gathered checkpoint": (
        partial(get_optimizer_state_dict, options=StateDictOptions(full_state_dict=True)),
        partial(set_optimizer_state_dict, options=StateDictOptions(full_state_dict=True)),
    ),
}
RESUMES = [  # tick and beat inside the first window, inside another, between two
    ("state_dict", 0, 1, CLIP),
    ("state_dict", 5, 1, None),
    ("state_dict", 5, 1, CLIP),
    ("checkpoint", 0, 1, None),
    ("checkpoint", 5, 1, None),
    ("checkpoint", 5, 1, CLIP),
    ("checkpoint", 6, 0, None),
    ("gathered checkpoint", 6, 0, None),
    ("gathered checkpoint", 6, 0, CLIP),
    ("gathered checkpoint", 5, 1, CLIP),
]


def resumed(
    wrap: Callable[[], Any], way: str, tick: int, beat: int, clip: float | None = None, **loop: Any
) -> float:
    """Saved there, and gone on with by a new model and optimizer."""
    save, load = WAYS[way]
    plan = Plan(WORLD, ticks=10)
    model, beats = wrap(), windows_of(plan)
    optimizer = make_optimizer(Ticks, model, max_grad_norm=clip)
    train(model, optimizer, beats, stop=tick * plan.beats + beat, **loop)
    file = io.BytesIO()
    torch.save((model.state_dict(), save(model, optimizer), beats.state_dict()), file)
    file.seek(0)
    model_state, optimizer_state, windows_state = torch.load(file)
    model, beats = wrap(), windows_of(plan, windows_state["windows"] * plan.beats)
    optimizer = make_optimizer(Ticks, model, max_grad_norm=clip, lr=0.7)
    model.load_state_dict(model_state)
    load(model, optimizer, optimizer_state)
    beats.load_state_dict(windows_state)
    train(model, optimizer, beats, **loop)
    return far(model, one_process(plan, clip=clip))


def infinite(wrap: Callable[[], Any]) -> float:
    """An error on every rank, which leaves the parameters as they were."""
    model, plan = wrap(), Plan(WORLD, spike=9)
    train_it = partial(train, model, make_optimizer(Ticks, model), windows_of(plan))
    refused(DivergenceError, train_it, "finite")
    return far(model, one_process(plan))


def held(wrap: Callable[[], Any], kind: Any, **options: Any) -> float:
    """No rank moves after the infinite window, although one alone may have the infinite element."""
    model, plan = wrap(), Plan(WORLD, spike=7)
    optimizer = make_optimizer(kind, model, **HOLD, **options)
    train(model, optimizer, windows_of(plan), stop=7 * plan.beats)
    assert not optimizer.held
    before = [p.detach().clone() for p in shards(model)]
    train(model, optimizer, windows_of(plan, 7 * plan.beats))
    assert optimizer.held
    assert all(torch.equal(a, b) for a, b in zip(shards(model), before, strict=True))
    other, calm = wrap(), Plan(WORLD, ticks=7)
    train(other, make_optimizer(kind, other, **options), windows_of(calm))
    return max(
        float((a - b).detach().abs().max())
        for a, b in zip(shards(model), shards(other), strict=True)
        if a.numel()
    )


def shards(model: nn.Module) -> list[Tensor]:
    """What this rank holds of the parameters."""
    return [getattr(p, "to_local", lambda p=p: p)() for p in model.parameters()]


def held_by_one_rank(wrap: Callable[[], Any]) -> float:
    """Ranks that share parameters agree on a flag that one of them sets."""
    model = wrap()
    optimizer = make_optimizer(Ticks, model, **HOLD)
    optimizer.hold(torch.tensor(RANK == WORLD - 1))
    train(model, optimizer, windows_of(PLAN))
    assert optimizer.held
    return far(model, [p.detach() for p in make_model().parameters()])


def shorter(by: int) -> None:
    """The first rank runs out of beats; none waits for it for ever."""
    beats = windows(PLAN.of_rank(RANK)[: -by if RANK == 0 else None], PLAN.beats, rows)
    numbers = [PLAN.beats - by] + [PLAN.beats] * (WORLD - 1)
    refused(DataError, lambda: list(beats), f"{numbers} in window {PLAN.ticks}")


def unreadable() -> None:
    """One rank has an error of its own; the other ranks get an error instead of waiting for it."""

    def rows_or_error(batch: Any) -> int:
        if RANK == 0:
            raise KeyError("targets")
        return rows(batch)

    beats = windows(PLAN.of_rank(RANK), PLAN.beats, rows_or_error)
    if RANK == 0:
        refused(KeyError, lambda: next(beats), "targets")
    else:
        refused(DataError, lambda: next(beats), "an error on rank 0 in window 1")


def without_its_window(wrap: Callable[[], Any]) -> None:
    """As torch's checkpoints on disk leave it: they know only what a new optimizer has."""
    model, beats = wrap(), windows_of(PLAN)
    optimizer = make_optimizer(Ticks, model, max_grad_norm=CLIP)
    train(model, optimizer, beats, stop=5 * PLAN.beats + 1)
    state = optimizer.state_dict()
    for values in state["state"].values():
        values.pop("window", None)
    refused(CheckpointError, partial(optimizer.load_state_dict, state), "middle of a window")


def of_both(wrap: Callable[[], Any]) -> Iterator[tuple[str, Case]]:
    yield "TicksSign", partial(itself, wrap, TicksSign, lr=0.01)
    yield "TicksMuon", partial(itself, wrap, TicksMuon)
    yield "max_update_norm", partial(itself, wrap, Ticks, max_update_norm=0.3)
    yield "infinite", partial(infinite, wrap)
    yield "held", partial(held, wrap, Ticks)
    yield "held, clipped", partial(held, wrap, Ticks, max_grad_norm=CLIP)
    yield "held, mixed", partial(held, wrap, TicksMuon)
    for clip in (None, CLIP):
        yield f"skip {clip=}", partial(sgd, wrap, Plan(WORLD, spike=7), clip=clip, options=SKIP)
    for by in (1, PLAN.beats):
        yield f"{by} beats less", partial(shorter, by)
    yield "unreadable", unreadable
    yield "without its window", partial(without_its_window, wrap)
    for how in RESUMES:
        yield f"resumed {how}", partial(resumed, wrap, *how)


def cases_of_ddp() -> Iterator[tuple[str, Case]]:
    switches = itertools.product((None, "every", "first"), (False, True))
    loops = (
        (False, False, None),
        (False, True, None),
        (True, False, None),
        (True, True, CLIP),
    )
    for (unused, view), (no_sync, take, clip) in itertools.product(switches, loops):
        plan = Plan(WORLD, unused)
        wrap = partial(ddp, plan, gradient_as_bucket_view=view)
        name = f"{unused=} {view=} {no_sync=} {take=} {clip=}"
        yield name, partial(sgd, wrap, plan, clip=clip, no_sync=no_sync, take=take)
    yield "static graph", partial(sgd, partial(ddp, static_graph=True))
    yield "small buckets", partial(sgd, partial(ddp, bucket_cap_mb=1e-4))
    yield "summed between ranks", summed_by_hook
    yield "no_sync, resumed", partial(resumed, ddp, "state_dict", 5, 1, no_sync=True)
    view = partial(ddp, gradient_as_bucket_view=True)
    for way in ("state_dict", "checkpoint"):
        yield f"view, resumed by {way}", partial(resumed, view, way, 5, 1)
    for unused, no_sync in itertools.product((None, "first"), (False, True)):
        yield f"TicksAdam {unused=} {no_sync=}", partial(adam, Plan(WORLD, unused), no_sync)
    without_group = partial(TicksAdam, make_model().parameters())
    yield "TicksAdam without a group", partial(refused, ConfigError, without_group, "process_group")
    yield from of_both(ddp)


def adam(plan: Plan, no_sync: bool) -> float:
    model = ddp(plan)
    optimizer = TicksAdam(model.parameters(), **ADAM, process_group=distributed.group.WORLD)
    train(model, optimizer, windows_of(plan), no_sync=no_sync)
    return far(model, one_process_with_squares(plan))


def summed_by_hook() -> float:
    """Gradients that are added over ranks must be separate from the sum, which every rank has."""

    def add(_state, bucket):  # torch compares annotations, if there are any
        work = distributed.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    model = ddp()
    model.register_comm_hook(None, add)
    optimizer = make_optimizer(Ticks, model)
    train(model, optimizer, windows_of(PLAN, ranks="sum"), no_sync=True, take=True)
    return far(model, one_process(PLAN))


def cases_of_fsdp() -> Iterator[tuple[str, Case]]:
    for unused, deep, no_sync, clip in (
        (None, True, False, None),
        (None, True, True, CLIP),
        (None, False, True, None),
        ("every", True, False, None),
        ("every", False, False, CLIP),
        ("every", False, True, None),
    ):
        plan, wrap = Plan(WORLD, unused), partial(fsdp, deep=deep)
        name = f"{unused=} {deep=} {no_sync=} {clip=}"
        yield name, partial(sgd, wrap, plan, clip=clip, no_sync=no_sync)
    yield "take", partial(sgd, fsdp, take=True)
    yield "foreach", partial(sgd, fsdp, options={"foreach": True})
    for shape in ((1, WORLD), (WORLD, 1)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards"))
        wrap, plan = partial(fsdp, mesh=mesh), Plan(WORLD, spike=7)
        yield f"mesh of {shape}", partial(sgd, wrap, plan, options=SKIP, clip=CLIP)
    yield "held by one rank", partial(held_by_one_rank, fsdp)
    yield "summed between ranks", summed_between_shards
    yield "bfloat16", half_precision
    group = distributed.group.WORLD
    sharded = partial(TicksAdam, fsdp().parameters(), process_group=group)
    yield "TicksAdam", partial(refused, ConfigError, sharded, "DTensor")
    yield from of_both(fsdp)


def cases_of_fsdp1() -> Iterator[tuple[str, Case]]:
    """It hands `.grad` on as another tensor over the same memory, or as views of a flat one."""
    strategies = (ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP)
    for strategy, views, deep, no_sync, take in itertools.product(strategies, *[(False, True)] * 4):
        wrap = partial(fsdp1, strategy, views, deep=deep)
        name = f"{strategy.name} {views=} {deep=} {no_sync=} {take=}"
        yield name, partial(sgd_in_fsdp1, wrap, no_sync=no_sync, take=take)
    wrap = partial(fsdp1, strategies[0], True)
    yield "skip", partial(sgd_in_fsdp1, wrap, Plan(WORLD, spike=7), options=SKIP)
    yield "TicksSign", partial(sgd_in_fsdp1, wrap, kind=TicksSign, options={"lr": 0.01})
    yield "held", partial(held, wrap, Ticks)
    for views in (False, True):
        given = fsdp1(strategies[0], views)
        for kind, name, options in (
            (Ticks, "max_grad_norm", {"max_grad_norm": CLIP}),
            (Ticks, "max_update_norm", {"max_update_norm": CLIP}),
            (TicksAdam, "sharded by FSDP", {"process_group": distributed.group.WORLD}),
            (TicksMuon, "muon takes matrices", {}),
        ):
            make = partial(kind, given.parameters(), 0.1, **options)
            yield f"{views=} {name}", partial(refused, ConfigError, make, name)


def fsdp1(strategy: ShardingStrategy, views: bool, *, deep: bool = False) -> Any:
    """With `views` the optimizer gets the model's own parameters, else flat ones."""
    wrap = partial(
        FullyShardedDataParallel,
        sharding_strategy=strategy,
        use_orig_params=views,
        device_id=torch.device("cpu"),
    )
    model = make_model()
    if deep:
        model.inner = wrap(model.inner)
    return wrap(model)


def sgd_in_fsdp1(
    wrap: Callable[[], Any],
    plan: Plan = PLAN,
    *,
    kind: Any = Ticks,
    options: Mapping[str, Any] = {},
    **loop: Any,
) -> float:
    model = wrap()
    train(model, make_optimizer(kind, model, **options), windows_of(plan), **loop)
    with FullyShardedDataParallel.summon_full_params(model):
        found = torch.cat([p.detach().flatten() for p in model.parameters()])
    reference = torch.optim.SGD if kind is Ticks else kind
    more = {} if kind is Ticks else options
    wanted = torch.cat([p.flatten() for p in one_process(plan, reference, **more)])
    # deep, the inner layer's come last or first
    return float((found.sort().values - wanted.sort().values).abs().max())


def summed_between_shards() -> float:
    model = fsdp()
    model.set_gradient_divide_factor(1.0)
    train(model, make_optimizer(Ticks, model), windows_of(PLAN, ranks="sum"))
    return far(model, one_process(PLAN))


def half_precision() -> None:
    """Parameters in bfloat16, in place: their sums are float32."""
    model = fully_shard(nn.Linear(8, 4, dtype=torch.bfloat16))
    optimizer = Ticks(model.parameters(), 2.0**-6, momentum=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        for _ in range(256):  # in bfloat16, 1 + 2**-9 is 1
            model(torch.full((1, 8), 2.0**-9, dtype=torch.bfloat16)).sum().backward()
        sums = [p.grad for p in model.parameters()]
        optimizer.step()
    for parameter, c, old in zip(model.parameters(), sums, before, strict=True):
        assert c is parameter.grad is optimizer.state[parameter]["accumulated"]
        assert c.dtype == torch.float32
        wanted = 256 * (2.0**-9 if parameter.ndim == 2 else 1.0) * 1.5  # the second tick's
        assert bool((c.full_tensor() == wanted / 2).all()), c
        assert not torch.equal(parameter.full_tensor(), old.full_tensor())


# --- one after the other --------------------------------------------------------------------------


FAMILIES = {"ddp": cases_of_ddp, "fsdp": cases_of_fsdp, "fsdp1": cases_of_fsdp1}


def main() -> None:
    failed = []
    for name, case in FAMILIES[FAMILY]():
        try:
            found = case()
            print(f"{found} {name}")
            if found is not None and not found < ROUNDING:
                failed.append(f"{name}: {found}")
        except Exception as error:  # goes on with the next, and fails in the end
            if not failed:
                traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}")
    if failed:
        sys.exit("\n".join(failed))


store = distributed.FileStore(sys.argv[4], WORLD)
distributed.init_process_group(
    "gloo", store=store, rank=RANK, world_size=WORLD, timeout=timedelta(seconds=30)
)
try:
    main()
    # Who leaves first closes the connections on which another may still be receiving.
    store.set(f"finished {RANK}", "")
    store.wait([f"finished {rank}" for rank in range(WORLD)])
finally:
    distributed.destroy_process_group()
leave()
