import numpy as np
import pytest
import torch

from leworld.errors import RangeError
from leworld.evaluation.controls import ZeroedMemory, random_addresses, shuffled
from leworld.evaluation.trials import teacher_forced
from leworld.memory import PAGE_WORDS, WordStore
from leworld.rng import derangement
from leworld.types import Ranges
from tests.models.tiny import tiny_trainer, tiny_world


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def own_ranges(batch: int) -> Ranges:
    start = torch.arange(batch * 3).view(batch, 3) * 10
    return Ranges(start, start % 7 + 1)


def test_zeroed_memory_reads_zeros_of_the_same_lengths_and_refuses_the_same_ranges():
    store = WordStore(16)
    store.write(np.array([0]), np.full((1, 256), 7, np.uint32))
    zeroed = ZeroedMemory(store)
    start, length = np.array([0, 200, 2**16 - 1]), np.array([5, 0, 1])
    words = zeroed.read(start, length)
    assert zeroed.address_bits == 16
    assert words.words.tolist() == [0] * 6
    assert words.words.dtype == np.uint32
    assert words.offsets.tolist() == store.read(start, length).offsets.tolist() == [0, 5, 5, 6]
    assert store.read(start, length).words.tolist() == [7] * 5 + [0]
    with pytest.raises(RangeError):
        zeroed.read(np.array([2**16 - 1]), np.array([2]))


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_nothing_stays_in_place(count):
    for seed in range(20):
        moved = derangement(count, generator(seed))
        assert sorted(moved.tolist()) == list(range(count))
        assert (moved != torch.arange(count)).all()
    assert torch.equal(derangement(count, generator(3)), derangement(count, generator(3)))


def test_one_thing_or_none_cannot_move():
    assert derangement(1, generator()).tolist() == [0]
    assert derangement(0, generator()).tolist() == []


def test_shuffled_reads_are_whole_rows_of_other_samples():
    ranges = own_ranges(50)
    redirect = shuffled(generator())
    first, second = redirect(ranges), redirect(ranges)
    source = first.start[:, 0] // 30
    assert (source != torch.arange(50)).all()
    assert torch.equal(first.start, ranges.start[source])
    assert torch.equal(first.length, ranges.length[source])
    assert not torch.equal(first.start, second.start)


@pytest.mark.parametrize("address_bits", [8, 16, 32])
def test_random_addresses_are_in_range_at_their_own_length(address_bits):
    ranges = Ranges(torch.zeros(400, 3, dtype=torch.int64), torch.randint(0, 257, (400, 3), generator=generator()))
    found = random_addresses(address_bits, generator())(ranges)
    assert torch.equal(found.length, ranges.length)
    assert found.start.min() >= 0
    assert (found.start + PAGE_WORDS).max() <= 2**address_bits
    if address_bits > 8:
        spread = found.start.double() / 2**address_bits
        assert spread.mean().item() == pytest.approx(0.5, abs=0.05)
        assert spread.std().item() == pytest.approx(12**-0.5, abs=0.03)
        assert len(found.start.unique()) > 1100


@pytest.fixture(scope="module")
def world():
    return tiny_world("rules")


def listening(system) -> list[tuple[int, int]]:
    """All ranges that a system reads from now on."""
    seen, memory = [], system.memory

    class Listening:
        address_bits = memory.address_bits

        def read(self, start, length):
            seen.extend(pair for pair in zip(start.tolist(), length.tolist(), strict=True) if pair[1])
            return memory.read(start, length)

    system.memory = Listening()
    return seen


def test_shuffled_control_reads_the_words_another_sample_asked_for(world):
    system = tiny_trainer(world, stirred=True).train_state.system
    batch = world.batch("test", 2, generator())
    plain = teacher_forced(system, batch)
    seen = listening(system)
    trial = teacher_forced(system, batch, redirect=shuffled(generator()))
    # With two samples, each reads what the other asked for; its mask is its own.
    assert torch.equal(trial.mask[:, 0], plain.mask[:, 0])
    wanted = set()
    for sample in range(2):
        other = plain.start[1 - sample, 0, :, 0]
        wanted |= {int(start) for start, on in zip(other, trial.mask[sample, 0], strict=True) if on}
    assert wanted <= {start for start, _ in seen}
    assert torch.equal(trial.start[:, 0], plain.start[:, 0])


def test_controls_change_the_prediction_only_if_memory_matters(world):
    system = tiny_trainer(world, stirred=True).train_state.system
    batch = world.batch("test", 8, generator())
    plain = teacher_forced(system, batch).error
    redirects = (shuffled(generator()), random_addresses(16, generator()))
    assert all(not torch.equal(teacher_forced(system, batch, redirect=redirect).error, plain) for redirect in redirects)
    with torch.no_grad():
        # A model that ignores what it reads is not touched by any control.
        blm = system.blm
        for weight in (*blm.pooling.out.parameters(), *blm.info_query.parameters(), *blm.told.parameters()):
            weight.zero_()
    plain = teacher_forced(system, batch).error
    for redirect in redirects:
        trial = teacher_forced(system, batch, redirect=redirect)
        assert torch.allclose(trial.error[:, 0], plain[:, 0], atol=1e-6)
