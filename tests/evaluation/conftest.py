"""What the tests of evaluation share."""

from collections.abc import Iterator

import pytest
import torch

from leworld.types import Batch
from tests.evaluation.fakes import FakeWorld


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tiny networks run slower on several threads, above all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def held_out(world: FakeWorld) -> Batch:
    return world.batch("test", 32, torch.Generator().manual_seed(3))
