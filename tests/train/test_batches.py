import dataclasses
import os
import signal
from collections import OrderedDict, UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from metronorm.train.batches import halves, iterate, map_tensors, same, tensors_of, to_device

CPU = torch.device("cpu")


class Pair(NamedTuple):
    inputs: Any
    targets: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    tokens: Any
    names: list[str]


@dataclasses.dataclass
class Checked:
    """Its length is computed of what it is made with; a tensor has no `upper`."""

    text: Any
    length: int = dataclasses.field(init=False)
    mask: Any = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.length, self.mask = len(self.text), np.ones(2)
        self.text = np.frombuffer(self.text.upper().encode(), dtype=np.uint8)


class Encoding(UserDict[str, Any]):
    """A mapping that is no dict, as tokenizers give it."""

    def __getattr__(self, name: str) -> Any:
        if name in self.data:
            return self.data[name]
        raise AttributeError(name)


class Graph:
    """Something that moves itself, as graphs and packed sequences do."""

    def __init__(self, nodes: Any, device: Any = None) -> None:
        self.nodes, self.device = nodes, device

    def to(self, device: torch.device) -> "Graph":
        return Graph(self.nodes.to(device), device)


def test_nested_containers_keep_their_types() -> None:
    batch = {
        "pair": Pair(np.zeros(2), [torch.ones(2), "text", 7, None]),
        "frozen": Frozen(np.arange(2), ["a", "b"]),
        "encoding": Encoding(ids=np.arange(2)),
        "ordered": OrderedDict(x=np.zeros(1), y=2.5),
        "view": MappingProxyType({"x": np.zeros(1)}),
        "size": torch.Size([2, 3]),
    }
    moved = to_device(batch, CPU)
    assert isinstance(moved["pair"], Pair)
    assert isinstance(moved["pair"].inputs, torch.Tensor)
    assert moved["pair"].targets[1:] == ["text", 7, None]
    assert isinstance(moved["frozen"].tokens, torch.Tensor)
    assert moved["frozen"].names == ["a", "b"]
    assert isinstance(moved["encoding"], Encoding)
    assert isinstance(moved["encoding"].ids, torch.Tensor)
    assert isinstance(moved["ordered"], OrderedDict)
    assert moved["ordered"]["y"] == 2.5
    assert isinstance(moved["view"]["x"], torch.Tensor)
    assert moved["size"] == torch.Size([2, 3])
    assert len(tensors_of(batch)) == 6
    assert isinstance(batch["frozen"].tokens, np.ndarray), "the batch itself is as it was"
    assert isinstance(batch["encoding"].ids, np.ndarray)


def test_a_dataclass_is_not_made_anew() -> None:
    batch = Checked("ab")
    moved = to_device(batch, CPU)
    assert moved.text.tolist() == [65, 66]
    assert moved.length == 2
    assert isinstance(moved.mask, torch.Tensor), "a field that is no argument moves too"
    assert isinstance(batch.text, np.ndarray)


def test_what_moves_itself_does() -> None:
    moved = to_device([Graph(torch.zeros(2)), Graph], CPU)
    assert moved[0].device == CPU
    assert moved[1] is Graph
    packed = to_device(pack_sequence([torch.ones(3), torch.ones(2)]), CPU)
    assert isinstance(packed, PackedSequence)
    assert packed.data.tolist() == [1.0] * 5


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4, dtype=">i4"),
        np.arange(8.0).reshape(2, 4)[:, ::-1],
        np.broadcast_to(np.float32(2), (2, 2)),
        np.arange(3, dtype=np.uint16),
        np.array(2.5),
        np.array([1 + 2j]),
        np.zeros((0, 3)),
        np.arange(3, dtype=np.float16),
    ],
    ids=["big-endian", "flipped", "broadcast", "uint16", "scalar", "complex", "empty", "half"],
)
def test_every_array_of_numbers_becomes_a_tensor(array: Any) -> None:
    array.flags.writeable = False  # torch warns of a tensor that is none's to write
    (tensor,) = tensors_of(array)
    assert tensor.numpy().tolist() == array.tolist()
    tensor.copy_(torch.zeros_like(tensor))


def test_text_and_objects_stay() -> None:
    for array in (np.array(["a"]), np.array([None]), np.zeros(2, dtype="datetime64[s]")):
        assert map_tensors(array, lambda tensor: None) is array
        assert tensors_of(array) == []


def test_an_array_that_can_be_written_is_not_copied() -> None:
    array = np.zeros(3)
    tensors_of([array])[0].fill_(1)
    assert array.tolist() == [1, 1, 1]


def test_same_is_bit_for_bit() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert same({"x": nan, "name": "a"}, {"x": nan.clone(), "name": "b"})
    assert same([np.arange(3)], [torch.arange(3)])
    assert not same(torch.zeros(1), -torch.zeros(1))
    assert not same(torch.zeros(2), torch.zeros(1, 2))
    assert not same(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not same([torch.zeros(2)], [torch.zeros(2)] * 2)
    for one in (
        torch.tensor([True, False]),
        torch.tensor([1, 2], dtype=torch.uint16),
        torch.tensor(3, dtype=torch.bfloat16),
        torch.eye(3).to_sparse(),
        torch.eye(3)[:, 1],
        torch.zeros(0),
    ):
        assert same(one, one.clone())
    assert not same(torch.eye(3).to_sparse(), (2 * torch.eye(3)).to_sparse())


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (lambda: torch.arange(5), ([0, 1], [2, 3, 4])),
        (lambda: torch.arange(1), None),
        (lambda: torch.tensor(3), None),
        (lambda: (torch.arange(4), torch.tensor(3)), None),
        (lambda: (torch.arange(4), torch.arange(3)), None),
        (lambda: "no tensor", None),
        (list, None),
    ],
)
def test_halves(batch: Callable[[], Any], expected: Any) -> None:
    found = halves(batch())
    assert (found and tuple(part.tolist() for part in found)) == expected


def test_halves_of_what_is_nested() -> None:
    batch = {"x": np.arange(6).reshape(3, 2), "more": Pair(torch.arange(3), "all")}
    one, other = halves(batch) or (None, None)
    assert one["x"].tolist() == [[0, 1]]
    assert other["x"].tolist() == [[2, 3], [4, 5]]
    assert one["more"] == Pair(torch.tensor([0]), "all")
    assert other["more"].targets == "all"


def test_a_signal_to_a_worker_that_has_just_begun_is_not_for_it() -> None:
    """It was meant for the group, which the worker is about to leave."""
    sent = True

    def signal_itself() -> None:
        if sent:
            os.kill(os.getpid(), signal.SIGTERM)

    os.register_at_fork(after_in_child=signal_itself)  # for good: so there is a switch
    try:
        loader = DataLoader(TensorDataset(torch.arange(6)), 2, num_workers=1)
        assert len(list(iterate(loader))) == 3
    finally:
        sent = False
