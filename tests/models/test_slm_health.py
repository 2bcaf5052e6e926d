import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from leworld.errors import ConfigError, DataError
from leworld.models.slm_health import SLMHealth, SLMHealthConfig

CONFIG = SLMHealthConfig(healthy=0.9, corrupt=0.2, error_rate=0.01, probe_every=3)


def step(read_confidence: Tensor, read: Tensor | None = None) -> SimpleNamespace:
    """What a step tells of its reads; by default all were made."""
    length = torch.ones_like(read_confidence, dtype=torch.int64) if read is None else read.long()
    return SimpleNamespace(reads=SimpleNamespace(length=length), first_read_confidence=read_confidence)


def observed(health: SLMHealth, rates: list[float]) -> SLMHealth:
    """After reads of the one SLM of one stream, made wherever they are allowed."""
    for rate in rates:
        health = health.observe(step(torch.tensor([[rate]]), health.allowed()))
    return health


def test_evidence_is_the_log_likelihood_ratio_of_the_two_rates():
    read_confidence = torch.tensor([1.0, 0.0, 0.5])
    one, none = math.log(0.2 / 0.9), math.log(0.8 / 0.1)
    assert torch.allclose(CONFIG.evidence(read_confidence), torch.tensor([one, none, (one + none) / 2]))
    assert CONFIG.limit == pytest.approx(math.log(99))


def test_reads_that_are_not_believed_exclude_as_soon_as_walds_limit_is_reached():
    needed = math.ceil(CONFIG.limit / math.log(0.8 / 0.1))
    fresh = SLMHealth.fresh(1, 1, CONFIG)
    assert not observed(fresh, [0.0] * (needed - 1)).excluded.any()
    excluded = observed(fresh, [0.0] * needed)
    assert excluded.excluded.all()
    assert not excluded.allowed().any()


def test_old_merit_does_not_hide_new_failure():
    needed = math.ceil(CONFIG.limit / math.log(0.8 / 0.1))
    assert observed(SLMHealth.fresh(1, 1, CONFIG), [1.0] * 1000 + [0.0] * needed).excluded.all()


def test_an_slm_that_is_not_read_keeps_its_standing():
    health = observed(SLMHealth.fresh(1, 1, CONFIG), [0.0])
    later = health.observe(step(torch.zeros(1, 1), torch.zeros(1, 1)))
    assert torch.equal(later.doubt, health.doubt)
    assert health.doubt.all()


def test_an_excluded_slm_is_probed_now_and_then_and_stays_out_while_it_fails():
    health = observed(SLMHealth.fresh(1, 1, CONFIG), [0.0] * 3)
    allowed = []
    for _ in range(12):
        allowed.append(bool(health.allowed()))
        health = observed(health, [0.0])
    assert allowed == [False, False, False, True] * 3
    assert health.excluded.all()


def test_a_probe_that_the_router_does_not_want_stays_due():
    health = observed(SLMHealth.fresh(1, 1, CONFIG), [0.0] * 6)
    for _ in range(5):
        assert health.allowed().all()
        health = health.observe(step(torch.zeros(1, 1), torch.zeros(1, 1)))


def test_an_slm_whose_reads_are_believed_again_returns_with_a_clean_record():
    health, steps = observed(SLMHealth.fresh(1, 1, CONFIG), [0.0] * 3), 0
    while health.excluded.any():
        health, steps = observed(health, [1.0]), steps + 1
    # The wait, and then as many probes in a row as the limit asks for.
    assert steps == 3 + math.ceil(CONFIG.limit / math.log(0.9 / 0.2))
    assert not health.doubt.any()


def test_streams_and_slms_do_not_touch_each_other():
    random = torch.Generator().manual_seed(0)
    whole = SLMHealth.fresh(4, 3, CONFIG)
    alone = [[SLMHealth.fresh(1, 1, CONFIG) for _ in range(3)] for _ in range(4)]
    for _ in range(30):
        read_confidence, read = torch.rand(4, 3, generator=random), torch.rand(4, 3, generator=random) < 0.7
        whole = whole.observe(step(read_confidence, read))
        for b in range(4):
            for n in range(3):
                cell = slice(b, b + 1), slice(n, n + 1)
                alone[b][n] = alone[b][n].observe(step(read_confidence[cell], read[cell]))
    assert whole.excluded.any()
    assert not whole.excluded.all()
    for name in ("doubt", "excluded", "wait"):
        joined = torch.stack([torch.stack([getattr(one, name)[0, 0] for one in row]) for row in alone])
        assert torch.equal(getattr(whole, name), joined)


def test_one_standing_serves_a_batch_by_the_mean_of_its_reads():
    read_confidence, read = torch.tensor([[0.2, 0.9], [0.8, 0.1], [0.0, 0.5]]), torch.tensor([[1, 0], [1, 0], [0, 0]])
    health = SLMHealth.fresh(1, 2, CONFIG).observe(step(read_confidence, read))
    assert health.doubt[0, 0] == pytest.approx(float(CONFIG.evidence(torch.tensor(0.5))))
    assert health.doubt[0, 1] == 0


def test_error_rates_are_those_of_the_test():
    """Reads that are believed at the two rates, independent of each other."""
    random = torch.Generator().manual_seed(0)
    for rate, low, high in ((0.9, 0.0, 0.02), (0.2, 0.99, 1.0)):
        health = SLMHealth.fresh(2000, 1, CONFIG)
        for _ in range(10):
            health = health.observe(step((torch.rand(2000, 1, generator=random) < rate).float()))
            health = SLMHealth(health.doubt, health.excluded, health.wait * 0, CONFIG)
        assert low <= float((health.excluded | (health.doubt >= CONFIG.limit)).float().mean()) <= high


def test_a_step_of_other_samples_is_refused():
    with pytest.raises(DataError, match="standing of 4 streams, and a step of 5 samples"):
        SLMHealth.fresh(4, 3).observe(step(torch.zeros(5, 3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corrupt": 0.95}, "corrupt 0.95 and healthy 0.95"),
        ({"healthy": 1.0}, "healthy 1.0"),
        ({"corrupt": 0.0}, "corrupt 0.0"),
        ({"error_rate": 0.5}, "error_rate 0.5"),
        ({"error_rate": 0.0}, "error_rate 0.0"),
        ({"probe_every": 0}, "probe_every 0"),
    ],
)
def test_settings_that_make_no_test_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SLMHealthConfig(**settings)
