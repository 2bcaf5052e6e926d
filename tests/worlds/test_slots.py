import numpy as np
import pytest
import torch

from leworld.memory import WordStore, unpack_bits
from leworld.worlds.slots import RecordSlots, random_words


def plain_splitmix(key: int, number: int) -> int:
    """The reference, one number at a time."""
    mask = 2**64 - 1
    z = (key + (number + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 32


@pytest.mark.parametrize("key", [0, 1, 2**63 - 1])
def test_random_words_are_the_reference(key):
    numbers = [0, 1, 2, 255, 2**31, 2**33 + 5]
    expected = [plain_splitmix(key, number) for number in numbers]
    assert random_words(key, np.array(numbers, np.uint64)).tolist() == expected


def test_bits_of_words_are_even_and_do_not_follow_from_the_neighbours():
    bits = unpack_bits(RecordSlots(7, 16, 1).words(np.arange(2**15))[:, 0])
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.02
    assert (bits[1:] != bits[:-1]).mean() == pytest.approx(0.5, abs=0.01)


def test_records_do_not_depend_on_who_else_is_asked_for():
    slots = RecordSlots(3, 32, 2)
    some = np.array([[0, 5], [2**29, slots.count - 1]])
    words = slots.words(some)
    assert words.shape == (2, 2, 3)
    for place, slot in np.ndenumerate(some):
        assert (slots.words(np.array([slot]))[0] == words[place]).all()
    assert (words[..., -1] & 0xFFFF == some & 0xFFFF).all()
    assert (words != RecordSlots(4, 32, 2).words(some))[..., :2].all()


def test_write_puts_each_record_at_its_address_once():
    slots, memory = RecordSlots(3, 32, 1), WordStore(32)
    address = np.array([2**32 - 2, 4, 4])
    receipt = slots.write(memory, address)
    assert receipt.start.tolist() == [4, 2**32 - 2]
    assert (memory.read(address, np.full(3, 2)).words.reshape(3, 2) == slots.words(address // 2)).all()
    assert memory.allocated_pages == 2


def test_pointers_are_followed():
    following = np.roll(np.arange(128, dtype=np.uint32), -1)
    slots = RecordSlots(3, 8, 1, following)
    assert slots.next_address(torch.tensor([0, 2, 254])).tolist() == [2, 4, 0]
