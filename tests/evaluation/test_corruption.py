import json
from dataclasses import replace

import pytest
import torch

from leworld.errors import ConfigError
from leworld.evaluation import corruption
from leworld.evaluation.corruption import (
    CORRUPTIONS,
    Corruption,
    CorruptionConfig,
    CorruptionStreams,
    Course,
    exclusion_figures,
    healthy_figures,
    measure_corruption,
)
from leworld.models.slm_health import SLMHealthConfig
from leworld.models.system import System
from leworld.types import Ranges
from tests.models.tiny import same_state, tiny_trainer, tiny_world

CONFIG = CorruptionConfig(streams=6, lead=3, steps=6, within=4)
SHORT = CorruptionConfig(streams=3, lead=1, steps=2, within=1)


@pytest.fixture(scope="module")
def world():
    return tiny_world("physics")


@pytest.fixture
def system(world) -> System:
    learner = tiny_trainer(world, stirred=True).train_state
    return System(learner.blm, learner.fleet, learner.memory, world.spec)


def course(read: str, wanted: str | None = None, excluded: str | None = None, right: str | None = None) -> Course:
    """One stream of one SLM, a digit a step; ``excluded`` has one more."""

    def bits(text: str) -> torch.Tensor:
        return torch.tensor([[[digit == "1"] for digit in text]])

    none = "0" * len(read)
    return Course(
        torch.zeros(1, len(read)), bits(wanted or read), bits(read), bits(right or none), bits(excluded or none + "0")
    )


def test_random_and_stuck_change_the_one_slms_ranges_and_nothing_else():
    ranges = Ranges(torch.arange(12).view(4, 3) + 1000, torch.full((4, 3), 2))
    for kind in ("random", "stuck"):
        changed = Corruption(kind, 1, 77, 0).redirect(16)(ranges)
        assert torch.equal(changed.length, ranges.length)
        assert torch.equal(changed.start[:, [0, 2]], ranges.start[:, [0, 2]])
        assert (changed.start[:, 1] != ranges.start[:, 1]).all()
        assert len(changed.start[:, 1].unique()) == (4 if kind == "random" else 1)
    assert (changed.start[:, 1] == 77).all()
    assert Corruption("noise", 1, 77, 0).redirect(16) is None


def test_noise_disturbs_one_slm_and_all_is_as_before_afterwards(system):
    before = system.fleet.state()
    with Corruption("noise", 1, 0, 0).damage(system.fleet):
        during = system.fleet.state()
    changed = {name for name in before if not torch.equal(before[name], during[name])}
    assert changed
    assert all(name.startswith("slm.1.model.") for name in changed)
    assert same_state(before, system.fleet.state())


def test_the_lead_is_healthy_and_what_follows_is_not(world, system):
    streams = CorruptionStreams(world, system, CONFIG, seed=0)
    healthy = streams.walk(None)
    assert healthy.error.shape == (6, 9)
    assert healthy.excluded.shape == (1, 10, 3)
    assert not healthy.excluded.any()
    for kind in CORRUPTIONS:
        noisy = streams.walk(None, streams.corruption(kind, 1))
        assert torch.equal(noisy.error[:, :3], healthy.error[:, :3])
        assert not torch.allclose(noisy.error[:, 3:], healthy.error[:, 3:])
    assert torch.equal(streams.walk(None).error, healthy.error)


def test_sequences_are_chained_and_a_request_does_not_cross_the_border(world, system):
    streams = CorruptionStreams(world, system, CONFIG, seed=0)
    assert [first for _, first in streams.steps] == [True, False, False, False] * 2 + [True]
    requested = []
    predict = system.predict

    def watched(query, **options):
        requested.append(query.info_query)
        return replace(predict(query, **options), info_query=torch.ones_like(query.info_query))

    system.predict = watched
    streams.walk(None)
    assert [bool(query.any()) for query in requested] == [not first for _, first in streams.steps]


def test_a_barred_slm_is_never_read(world, system):
    streams = CorruptionStreams(world, system, CONFIG, seed=0)
    course = streams.walk(streams.barred(1))
    assert not course.read[..., 1].any()
    assert course.read.any()
    assert course.wanted[..., 1].any()


def test_an_slm_that_nobody_believes_is_found_and_one_that_is_believed_is_not(world, system):
    """Belief told by hand: right reads are believed, others not."""
    streams = CorruptionStreams(world, system, CONFIG, seed=0)
    predict = system.predict

    def told(query, **options):
        step = predict(query, mask=torch.ones(6, 3), **options)
        wrong = ~(step.reads.start.unsqueeze(-1) == step.proposals.start).any(-1)
        return replace(step, first_read_confidence=1 - wrong.float())

    system.predict = told
    system.wanted = lambda query, proposals: torch.ones(6, 3, dtype=torch.bool)
    for count in streams.ways.values():
        course = streams.walk(streams.fresh(count), streams.corruption("random", 2))
        figures = exclusion_figures(course, 2, 3, 4)
        assert figures == {"out": 1.0, "excluded": 1.0, "median_steps": 2.0}
        assert not course.excluded[..., :2].any()
        assert not streams.walk(streams.fresh(count)).excluded.any()


@pytest.mark.parametrize(
    ("read", "wanted", "excluded", "out", "in_time", "steps"),
    [
        # Lead of 2, within 3 of 6 corrupted steps.
        ("11" "110000", "11" "111111", "000" "011111", 1.0, 1.0, 2.0),
        ("11" "111111", "11" "111111", "000" "000000", 0.0, 0.0, None),
        # Excluded in time by steps at which it was wanted, late by the clock.
        ("11" "100101", "11" "100101", "000" "000001", 0.0, 1.0, 6.0),
        # Hardly ever wanted: out, and its standing says nothing.
        ("11" "100000", "11" "100000", "000" "000000", 1.0, None, None),
        # Read once more as a probe.
        ("11" "110010", "11" "111111", "000" "011111", 1.0, 1.0, 2.0),
        # It came back.
        ("11" "110011", "11" "111111", "000" "011100", 0.0, 0.0, 2.0),
    ],
)  # fmt: skip
def test_a_case_is_counted_by_steps_and_by_steps_at_which_it_was_wanted(read, wanted, excluded, out, in_time, steps):
    figures = exclusion_figures(course(read, wanted, excluded), 0, 2, 3)
    assert figures == {"out": out, "excluded": in_time, "median_steps": steps}


def test_false_exclusions_are_counted_once_each():
    found = healthy_figures(course("1111", "1111", "00110", "0111"))
    assert found["exclusions"] == 250
    assert found["exclusions_right"] == 250
    assert found["out_right"] == 500
    assert healthy_figures(course("1111", "1111", "00000"))["exclusions"] == 0


def test_the_result_is_json_and_the_same_again(world, system, monkeypatch):
    monkeypatch.setattr(corruption, "CORRUPTIONS", ("noise",))
    result = measure_corruption(world, system, SHORT, 0)
    assert json.loads(json.dumps(result)) == result
    assert [case["slm"] for case in result["cases"]["noise"]] == [0, 1, 2]
    assert set(result["alone"]) == set(result["shared"]) == {"noise"}
    case = result["cases"]["noise"][1]
    assert case["mse"]["before"] > 0
    assert 0 <= case["alone"]["out"] <= 1
    assert measure_corruption(world, system, SHORT, 0) == result


def test_a_test_that_excludes_nobody_changes_nothing(world, system):
    lenient = replace(SHORT, health=SLMHealthConfig(error_rate=1e-12))
    streams = CorruptionStreams(world, system, lenient, seed=0)
    for noisy in (None, streams.corruption("random", 1)):
        judged = streams.walk(streams.fresh(3), noisy)
        assert torch.equal(judged.error, streams.walk(None, noisy).error)
        assert not judged.excluded.any()


@pytest.mark.parametrize("changed", [{"streams": 0}, {"lead": 0}, {"within": 0}, {"within": 6}])
def test_what_cannot_be_run_is_refused(changed):
    with pytest.raises(ConfigError, match="corruption: streams"):
        replace(CONFIG, **changed)
