import pytest
import torch

from leworld.training.read_noise import ReadNoise, add_read_noise
from leworld.types import Ranges


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def own_ranges(batch: int, slms: int = 3) -> Ranges:
    """Every read of every sample is at an address of its own."""
    start = torch.arange(batch * slms).view(batch, slms)
    return Ranges(start, start % 7 + 1)


@pytest.mark.parametrize("irrelevant", [0.0, 0.3, 0.5, 1.0])
def test_irrelevant_reads_are_as_many_as_configured_and_of_other_samples(irrelevant):
    ranges = own_ranges(20_000)
    noisy = add_read_noise(ranges, ReadNoise(irrelevant, 0.0, 0.0), generator())
    share = (noisy.ranges.start != ranges.start).float().mean().item()
    assert share == pytest.approx(irrelevant, abs=0.01)
    assert torch.equal(noisy.wrong, noisy.ranges.start != ranges.start)
    # Another sample's read is that of the same SLM, at its own length.
    assert torch.equal(noisy.ranges.start % 3, ranges.start % 3)
    assert torch.equal(noisy.ranges.length, noisy.ranges.start % 7 + 1)
    assert (noisy.kept == 1).all()


def test_at_least_30_percent_are_irrelevant_by_default_also_in_small_batches():
    shares = [
        add_read_noise(own_ranges(256), ReadNoise(0.3, 0.2, 0.1), generator(seed)).wrong.float() for seed in range(60)
    ]
    assert torch.cat(shares).mean() > 0.29


def test_half_of_the_wrong_reads_come_with_all_others_wrong():
    wrong = add_read_noise(own_ranges(20_000), ReadNoise(0.3, 0.0, 0.0), generator()).wrong
    alone = 0.15 / 0.85
    assert wrong.all(1).float().mean().item() == pytest.approx(0.15 + 0.85 * alone**3, abs=0.01)
    assert (~wrong).all(1).float().mean().item() == pytest.approx(0.85 * (1 - alone) ** 3, abs=0.01)


@pytest.mark.parametrize(("dropped", "blind"), [(0.2, 0.0), (0.0, 0.1), (0.2, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_reads_are_dropped_and_samples_blinded_as_configured(dropped, blind):
    kept = add_read_noise(own_ranges(20_000), ReadNoise(0.0, dropped, blind), generator()).kept
    assert set(kept.flatten().tolist()) <= {0.0, 1.0}
    assert kept.mean().item() == pytest.approx((1 - dropped) * (1 - blind), abs=0.01)
    assert (kept == 0).all(1).float().mean().item() == pytest.approx(blind + (1 - blind) * dropped**3, abs=0.01)


def test_unknown_labels_are_never_kept():
    ranges = own_ranges(4000)
    ranges = Ranges(ranges.start, ranges.length * (ranges.start % 2))
    noisy = add_read_noise(ranges, ReadNoise(0.5, 0.0, 0.0), generator())
    assert torch.equal(noisy.kept, (noisy.ranges.length > 0).float())
    assert 0.4 < noisy.kept.mean() < 0.6


def test_of_some_samples_only_the_first_records_of_each_read_are_left():
    start = torch.arange(60_000).view(20_000, 3)
    whole = Ranges(start, torch.full_like(start, 10))
    noisy = add_read_noise(whole, ReadNoise(0.0, 0.0, 0.0, cut=0.6), generator(), record_words=2)
    length = noisy.ranges.length
    assert torch.equal(noisy.ranges.start, start)
    assert not noisy.wrong.any()
    # Any number of records from none to all five may be left, alike in all reads of a sample.
    assert (length == length[:, :1]).all()
    for records in range(6):
        share = 0.6 / 6 + 0.4 * (records == 5)
        assert (length == 2 * records).float().mean().item() == pytest.approx(share, abs=0.015)
    assert torch.equal(noisy.kept, (length > 0).float())
    assert torch.equal(
        add_read_noise(whole, ReadNoise(0.0, 0.0, 0.0), generator(), record_words=2).ranges.length, whole.length
    )


def test_a_read_of_one_record_is_never_cut():
    ranges = own_ranges(1000)
    noisy = add_read_noise(ranges, ReadNoise(0.0, 0.0, 0.0, cut=1.0), generator(), record_words=7)
    assert torch.equal(noisy.ranges.length, ranges.length)


def test_spoiling_follows_from_the_generator_alone():
    read_noise = ReadNoise(0.3, 0.2, 0.1)
    first, same, other = (add_read_noise(own_ranges(64), read_noise, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.ranges.start, same.ranges.start)
    assert torch.equal(first.kept, same.kept)
    assert not torch.equal(first.ranges.start, other.ranges.start)
    assert not torch.equal(first.kept, other.kept)


def test_one_sample_has_no_other_to_take_from():
    noisy = add_read_noise(own_ranges(1), ReadNoise(1.0, 0.0, 0.0), generator())
    assert not noisy.wrong.any()
