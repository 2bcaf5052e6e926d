"""Weights and records on the wire come back as they were."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rpc.tensor_dict import pack, unpack
from actors.rpc.tensors import from_wire, to_wire
from leworld.types import Credit, Query, Ranges
from tests.actors.memory.peers import travel

DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), max_size=5), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_unpack_inverts_pack(parts, seed: int):
    random = torch.Generator().manual_seed(seed)
    tensors = {
        f"w{i}": torch.randint(0, 2, shape, generator=random).to(dtype) * (i + 1 if dtype != torch.bool else True)
        for i, (shape, dtype) in enumerate(parts)
    }
    found = unpack(travel(pack(tensors)))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_unpacked_tensors_share_nothing_with_the_array():
    packed = pack({"a": torch.ones(3), "b": torch.zeros(2)})
    found = unpack(packed)
    found["a"].zero_()
    assert torch.equal(unpack(packed)["a"], torch.ones(3))


def test_strided_tensors_are_packed_by_value():
    weight = torch.arange(6.0).view(2, 3).t()
    assert torch.equal(unpack(pack({"w": weight}))["w"], weight)


def query(rows: int) -> Query:
    random = torch.Generator().manual_seed(rows)
    return Query(*(torch.randn(rows, width, generator=random) for width in (4, 4, 3, 2)))


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_from_wire_inverts_to_wire(rows: int):
    record = query(rows)
    wire = to_wire(record)
    assert isinstance(wire.past, np.ndarray)
    found = from_wire(travel(wire))
    for name in ("past", "current", "characteristics", "info_query"):
        assert torch.equal(getattr(found, name), getattr(record, name))
        assert getattr(found, name).is_contiguous()
    found.past.add_(1)  # Read-only arrays would not allow that.


def test_nested_records_travel_whole():
    labels = Ranges(torch.tensor([[5]]), torch.tensor([[3]]))
    one = torch.rand(1, 1)
    credit = Credit(labels, one, torch.rand(1, 1, 2), one + 1, torch.rand(1, 1, 4))
    found = from_wire(pickle.loads(pickle.dumps(to_wire(credit))))
    assert torch.equal(found.labels.start, labels.start)
    assert torch.equal(found.hidden_grad, credit.hidden_grad)
