from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import RangeError
from leworld.memory import PAGE_WORDS, WordStore, fill_random, unpack_bits
from leworld.models.addressing import bits_of
from leworld.models.batched_reads import read_ranges
from leworld.models.blm import BLM, BLMConfig
from leworld.models.codec import CODE_DIM
from leworld.models.pooling import Senses
from leworld.types import Ranges
from leworld.worlds.base import WorldSpec
from tests.models.tiny import stir

LAST = 2**16
SLOTS = 3
TAG_BITS = 8


def random_store(seed: int = 0) -> WordStore:
    store = WordStore(16)
    fill_random(store, np.random.default_rng(seed))
    return store


def spec_of(record_words: int, **more: Any) -> WorldSpec:
    return WorldSpec(
        "test", state_dim=4, target_dim=3, char_dim=5, context_dim=0, num_tables=SLOTS, address_bits=16,
        record_words=record_words, read_words=PAGE_WORDS, horizon=2, residual=True, scale=torch.ones(3), **more,
    )  # fmt: skip


def blm_of(record_words: int) -> BLM:
    torch.manual_seed(0)
    config = BLMConfig(d_model=16, num_heads=2, num_layers=1, read_dim=16, read_heads=2, query_dim=8)
    decode = torch.randn(32 * record_words + 1, 4 + 3, generator=torch.Generator().manual_seed(1))
    # The last bits of a record, as far as it is whole, say whose it is.
    tag = (32 * record_words - TAG_BITS, TAG_BITS)
    blm = BLM(config, spec_of(record_words, decode=decode, tag=tag), slm_dim=8, num_slms=SLOTS)
    stir(blm, size=0.1)
    return blm


def senses_of(batch: int, seed: int = 0) -> Senses:
    random = torch.Generator().manual_seed(seed)
    state, tags = torch.randn(batch, 16, generator=random), torch.randn(batch, SLOTS, TAG_BITS, generator=random)
    return Senses(state, torch.zeros(batch, 3), tags)


def pooled(blm: BLM, store: WordStore, ranges: Ranges, senses: Senses) -> torch.Tensor:
    reads = read_ranges(store, ranges, blm.records.record_words)
    return blm.pool(senses, blm.encode(reads), reads.index).content.detach()


def plain_pool(
    blm: BLM, store: WordStore, senses: Senses, start: int, length: int, slot: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Content and notes of one sample's range, padded to a page, with an explicit mask and a loop over heads."""
    encoder, pooling, record_words = blm.records, blm.pooling, blm.records.record_words
    num_records = -(-PAGE_WORDS // record_words)
    bits = torch.zeros(num_records * record_words, 32)
    bits[:length] = torch.from_numpy(unpack_bits(store.read(np.array([start]), np.array([length])).words)).float()
    there = (torch.arange(len(bits)) < length).float().unsqueeze(1)
    codes = (blm.codec.encode(bits) * there).view(num_records, record_words * CODE_DIM)
    record_bits = bits.view(num_records, 32 * record_words)
    x = encoder.join(codes) + encoder.fields(record_bits @ encoder.decode[:-1] + encoder.decode[-1])
    x = x + encoder.position * torch.sin(torch.arange(num_records).unsqueeze(1) * encoder.frequency)
    for mix in encoder.mix:
        x = x + mix(x)
    keys, values, marks = encoder.features(x).chunk(3, dim=-1)
    notes = encoder.notes(codes)
    used = torch.arange(num_records) * record_words < length
    ask, expect = (pooling.query(senses.state[0]) * pooling.slot_scale[slot] + pooling.slot[slot]).chunk(2)
    fitting = (2 * record_bits[used, -TAG_BITS:] - 1) @ torch.tanh(senses.tags[0, slot]) / TAG_BITS
    belief = marks[used] @ expect / len(expect) ** 0.5 + pooling.vouch(senses.state[0]) * fitting - pooling.doubt
    read_confidence = torch.sigmoid(belief)
    parts, noted, width = [], [], len(ask) // pooling.num_heads
    for head in range(pooling.num_heads):
        own = slice(head * width, (head + 1) * width)
        weight = torch.softmax(keys[used][:, own] @ ask[own] / width**0.5, 0) * read_confidence
        parts.append(weight @ values[used][:, own] + (1 - weight.sum()) * pooling.null_value[own])
        noted.append(weight @ notes[used][:, own])
    return pooling.out(torch.cat(parts)).detach(), torch.cat(noted).detach()


spans = st.tuples(st.integers(0, LAST - 1), st.integers(0, PAGE_WORDS)).map(lambda r: (r[0], min(r[1], LAST - r[0])))
edges = st.sampled_from([(0, 0), (0, 1), (0, 256), (LAST - 1, 1), (LAST - 256, 256), (255, 2), (7, 3), (7, 3)])
rows = st.lists(st.lists(st.one_of(edges, spans), min_size=SLOTS, max_size=SLOTS), min_size=1, max_size=4)


def ranges_of(table: list[list[tuple[int, int]]]) -> Ranges:
    both = torch.tensor(table, dtype=torch.int64)
    return Ranges(both[..., 0], both[..., 1])


@pytest.mark.parametrize("record_words", [1, 2, 3, 22])
@settings(max_examples=10, deadline=None)
@given(table=rows)
def test_ragged_read_equals_padded_read_one_range_at_a_time(record_words, table):
    blm, store, senses = blm_of(record_words), random_store(), senses_of(len(table))
    reads = read_ranges(store, ranges_of(table), record_words)
    found = blm.pool(senses, blm.encode(reads), reads.index)
    for b, row in enumerate(table):
        for slot, (start, length) in enumerate(row):
            own = senses.map(lambda tensor, b=b: tensor[b : b + 1])
            content, notes = plain_pool(blm, store, own, start, length, slot)
            assert torch.allclose(found.content[b, slot], content, atol=2e-5)
            assert torch.allclose(found.notes[b, slot], notes, atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(table=rows)
def test_candidates_are_pooled_as_if_each_was_read_alone(table):
    blm, store, senses = blm_of(2), random_store(), senses_of(len(table))
    ranges = ranges_of(table)
    shifted = Ranges(ranges.start.roll(1, 1), ranges.length.roll(1, 1))
    both = Ranges(torch.stack([ranges.start, shifted.start], 2), torch.stack([ranges.length, shifted.length], 2))
    found = pooled(blm, store, both, senses)
    assert found.shape == (len(table), SLOTS, 2, 16)
    for k, alone in enumerate((ranges, shifted)):
        assert torch.allclose(found[:, :, k], pooled(blm, store, alone, senses), atol=1e-5)


def test_neither_the_order_of_ranges_nor_duplicates_change_a_pooled_read():
    blm, store, senses = blm_of(2), random_store(), senses_of(4)
    ranges = ranges_of([[(5, 9), (0, 256), (900, 1)], [(5, 9), (5, 9), (5, 8)], [(4, 9), (6, 0), (1, 1)], [(9, 2)] * 3])
    found = pooled(blm, store, ranges, senses)
    order = torch.tensor([2, 0, 3, 1])
    other = pooled(blm, store, ranges.map(lambda x: x[order]), senses.map(lambda x: x[order]))
    assert torch.allclose(found[order], other, atol=1e-6)
    twice = pooled(blm, store, ranges.map(lambda x: torch.cat([x, x])), senses.map(lambda x: torch.cat([x] * 2)))
    assert torch.allclose(twice, torch.cat([found, found]), atol=1e-6)


def test_each_distinct_range_is_read_once_in_one_call():
    calls = []

    class Counting(WordStore):
        def read(self, start, length):
            calls.append(list(zip(start.tolist(), length.tolist(), strict=True)))
            return super().read(start, length)

    ranges = ranges_of([[(5, 9), (0, 256), (5, 9)], [(5, 9), (5, 8), (7, 0)]])
    reads = read_ranges(Counting(16), ranges, 2)
    assert calls == [[(0, 256), (5, 8), (5, 9), (7, 0)]]
    assert reads.bits.shape == (256 + 8 + 9, 32)
    assert reads.index.tolist() == [[2, 0, 2], [2, 1, 3]]
    assert reads.valid.sum(1).tolist() == [128, 4, 5, 0]


@pytest.mark.parametrize("record_words", [1, 4])
def test_words_come_back_bit_by_bit_up_to_the_last_one(record_words):
    store = random_store()
    reads = read_ranges(store, ranges_of([[(LAST - 1, 1), (LAST - 256, 256), (0, 3)]]), record_words)
    for range_index, (start, length) in enumerate([(0, 3), (LAST - 256, 256), (LAST - 1, 1)]):
        words = store.read(np.array([start]), np.array([length])).words
        own = reads.row == range_index
        assert torch.equal(reads.bits[own], torch.from_numpy(unpack_bits(words)).float())
        assert reads.column[own].tolist() == list(range(length))


def test_a_range_of_length_0_reads_nothing_wherever_it_is():
    blm, senses = blm_of(2), senses_of(1)
    nothing = blm.pooling.out(blm.pooling.null_value).detach()
    for start in (0, 77, LAST - 1):
        for store in (random_store(0), random_store(1)):
            found = pooled(blm, store, ranges_of([[(start, 0)] * SLOTS]), senses)
            assert torch.allclose(found[0], nothing.expand(SLOTS, -1), atol=1e-6)
    beside = pooled(blm, random_store(), ranges_of([[(3, 0), (0, 256), (9, 1)]]), senses)
    assert torch.allclose(beside[0, 0], nothing, atol=1e-6)


def test_words_outside_the_ranges_change_nothing_and_those_inside_do():
    blm, senses, ranges = (
        blm_of(2),
        senses_of(2),
        ranges_of([[(100, 5), (300, 4), (7, 1)], [(100, 6), (7, 0), (300, 1)]]),
    )
    store = random_store()
    before = pooled(blm, store, ranges, senses)
    for start, length in ((99, 1), (106, 100), (299, 1), (304, 200), (6, 1), (8, 50)):
        store.write(np.array([start]), np.full((1, length), 0xFFFFFFFF, np.uint32))
    assert torch.equal(pooled(blm, store, ranges, senses), before)
    store.write(np.array([105]), np.array([[0x12345678]], np.uint32))
    after = pooled(blm, store, ranges, senses)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1, 0], before[1, 0])


def test_belief_is_given_for_every_record_that_was_read():
    blm, store, senses = blm_of(2), random_store(), senses_of(2)
    reads = read_ranges(store, ranges_of([[(3, 0), (0, 9), (9, 1)], [(9, 4), (7, 0), (8, 2)]]), 2)
    pooled = blm.pool(senses, blm.encode(reads), reads.index)
    assert pooled.belief.shape == pooled.valid.shape == (2, SLOTS, 5)
    assert pooled.valid.sum(-1).tolist() == [[0, 5, 1], [2, 0, 1]]
    assert pooled.belief[pooled.valid].std() > 1e-3


def test_belief_falls_with_every_bit_of_a_tag_that_differs():
    blm = blm_of(1)
    with torch.no_grad():
        # Nothing but the tag is left to go by, and it counts as at first.
        for weight in (*blm.records.features.parameters(), blm.pooling.vouch.weight):
            weight.zero_()
        blm.pooling.vouch.bias.fill_(6.0)
        blm.pooling.doubt.fill_(3.0)
    tag, store = 0b10110010, WordStore(16)
    words = [(tag ^ (1 << wrong) - 1) << 24 | 0x123456 for wrong in range(TAG_BITS + 1)]
    store.write(np.array([0]), np.array([words], np.uint32))
    senses = senses_of(1)
    sure = Senses(senses.state, senses.drift, 40 * (2 * bits_of(torch.tensor([[tag] * SLOTS]), TAG_BITS) - 1))
    reads = read_ranges(store, ranges_of([[(0, len(words))] * SLOTS]), 1)
    belief = blm.pool(sure, blm.encode(reads), reads.index).belief
    assert torch.allclose(belief[0], torch.tensor([3 - 1.5 * wrong for wrong in range(9)]).expand(SLOTS, -1), atol=1e-4)
    # Who expects no tag in particular goes by no tag.
    unsure = Senses(senses.state, senses.drift, torch.zeros(1, SLOTS, TAG_BITS))
    assert torch.allclose(blm.pool(unsure, blm.encode(reads), reads.index).belief, torch.tensor(-3.0))


def test_each_table_expects_its_own_tag():
    blm, store = blm_of(2), random_store()
    reads = read_ranges(store, ranges_of([[(0, 8)] * SLOTS]), 2)
    senses, records = senses_of(1), blm.encode(reads)
    before = blm.pool(senses, records, reads.index).belief
    other = senses.tags.clone()
    other[:, 1] *= -1
    after = blm.pool(Senses(senses.state, senses.drift, other), records, reads.index).belief
    assert [torch.equal(before[:, slot], after[:, slot]) for slot in range(SLOTS)] == [True, False, True]


def test_records_without_a_tag_are_believed_by_what_they_say():
    torch.manual_seed(0)
    config = BLMConfig(d_model=16, num_heads=2, num_layers=1, read_dim=16, read_heads=2, query_dim=8)
    blm = BLM(config, spec_of(record_words=1), slm_dim=8, num_slms=SLOTS)
    reads = read_ranges(random_store(), ranges_of([[(0, 8), (9, 4), (0, 0)]]), 1)
    records = blm.encode(reads)
    assert records.tags.shape == (3, 8, 0)
    found = blm.pool(Senses(torch.ones(1, 16), torch.zeros(1, 3), torch.zeros(1, SLOTS, 0)), records, reads.index)
    assert found.belief[found.valid].std() > 1e-3
    # Nothing speaks against a record at first.
    assert torch.sigmoid(found.belief[found.valid]).mean() > 0.3


def test_the_values_of_typed_fields_are_seen():
    blm, senses = blm_of(2), senses_of(1)
    ranges = ranges_of([[(0, 8), (9, 4), (20, 2)]])
    before = pooled(blm, random_store(), ranges, senses)
    with torch.no_grad():
        blm.records.decode.zero_()
    assert not torch.allclose(pooled(blm, random_store(), ranges, senses), before, atol=1e-3)


def test_what_is_not_believed_says_nothing():
    blm, senses = blm_of(2), senses_of(1)
    with torch.no_grad():
        blm.pooling.doubt.fill_(1e4)
    found = pooled(blm, random_store(), ranges_of([[(3, 8), (0, 256), (9, 1)]]), senses)
    nothing = blm.pooling.out(blm.pooling.null_value).detach()
    assert torch.allclose(found[0], nothing.expand(SLOTS, -1), atol=1e-6)


def test_order_of_records_in_a_range_matters():
    blm, senses = blm_of(1), senses_of(1)
    stores = [WordStore(16), WordStore(16)]
    stores[0].write(np.array([0]), np.array([[1, 2, 3, 4]], np.uint32))
    stores[1].write(np.array([0]), np.array([[4, 3, 2, 1]], np.uint32))
    first, second = (pooled(blm, store, ranges_of([[(0, 4)] * SLOTS]), senses) for store in stores)
    assert (first - second).abs().max() > 1e-3


def test_a_range_past_the_end_is_refused():
    with pytest.raises(RangeError):
        read_ranges(random_store(), ranges_of([[(LAST - 1, 2)] * SLOTS]), 2)
