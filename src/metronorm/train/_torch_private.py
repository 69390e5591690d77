"""The parts of torch that have no public name: one small function each, with its reason.

Everything here was read in torch 2.13. `tests/train/test_torch_private.py` fails where another
version of torch behaves differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed import distributed_c10d

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # for the checker: it has no public name


def default_store() -> Store:
    """The store of the default group, which all of its processes reach.

    Reason: a program has made the group, and its processes must say what went wrong where no
    collective works any more. Public alternative: none, as `init_process_group` gives nothing back.
    """
    store: Store = distributed_c10d._get_default_store()
    return store


def part_of_store(store: Store, name: str) -> Store:
    """A store within a store, whose keys all begin with the name.

    Reason: the class is public, but torch's types do not export it.
    """
    part: Store = distributed_c10d.PrefixStore(name, store)
    return part
