import json

import numpy as np
import pytest
import torch

from leworld.errors import ConfigError
from leworld.evaluation.metrics import paired_interval, positive
from leworld.evaluation.predictor import Budget
from leworld.evaluation.record_curves import FewerRecords, draw_curve, measure_curve, record_counts
from leworld.evaluation.simple_baselines import CopyLast, Neighbours, PredictZero
from leworld.evaluation.trials import reading, teacher_forced
from leworld.memory import WordStore
from leworld.models.system import System
from leworld.types import Batch
from leworld.worlds.trajectories import TrajectoryWorld
from tests.models.tiny import tiny_trainer, tiny_world

BUDGET = Budget(steps=2, sequences=4)


@pytest.fixture(scope="module")
def world() -> TrajectoryWorld:
    world = tiny_world("physics")
    assert isinstance(world, TrajectoryWorld)
    return world


@pytest.fixture(scope="module")
def system(world) -> System:
    learner = tiny_trainer(world, stirred=True).train_state
    return System(learner.blm, learner.fleet, learner.memory, world.spec)


@pytest.fixture(scope="module")
def batch(world) -> Batch:
    return world.batch("test", 12, torch.Generator().manual_seed(0))


def knn(cut: FewerRecords) -> Neighbours:
    return Neighbours.fit(cut, BUDGET)


@pytest.mark.parametrize(
    ("capacity", "counts"),
    [
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (9, [0, 1, 2, 4, 9]),
        (33, [0, 1, 2, 4, 8, 16, 33]),
        (64, [0, 1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_counts_double_up_to_the_capacity(capacity, counts):
    assert record_counts(capacity) == counts


def test_fewer_records_are_the_first_ones_in_memory_and_for_rivals_alike(world, batch):
    cut = FewerRecords(world, 4)
    few, all_of_them = WordStore(world.spec.address_bits), WordStore(world.spec.address_bits)
    cut.populate(few, "test")
    world.populate(all_of_them, "test")
    start = batch.labels.start.flatten().numpy()
    for table, rows in ((0, 2), (1, 1), (2, 1)):
        own = start[table :: world.num_tables]
        words = rows * world.spec.record_words
        length = torch.full((len(own),), world.spec.read_words).numpy()
        found = few.read(own, length).words.reshape(len(own), -1)
        whole = all_of_them.read(own, length).words.reshape(len(own), -1)
        assert (found[:, :words] == whole[:, :words]).all()
        assert not found[:, words:].any()
        assert whole[:, words:].any()
    stored = cut.stored(batch.world[:, 0])
    assert torch.equal(stored.inputs, world.stored(batch.world[:, 0]).inputs[:, :4])


def test_the_curve_ends_where_the_whole_memory_does_and_begins_without_any(world, system, batch):
    curve = measure_curve(world, system, batch, rivals={"knn": knn}, lines={"copy_last": CopyLast.fit(world, BUDGET)})
    assert curve["records"] == [0, 1, 2, 4, 9]
    assert json.loads(json.dumps(curve)) == curve
    whole = WordStore(world.spec.address_bits)
    world.populate(whole, "test")
    for memory, found in ((whole, curve["leworld"][-1]), (WordStore(world.spec.address_bits), curve["leworld"][0])):
        error = teacher_forced(reading(system, memory), batch).error
        assert found == positive(paired_interval(error, torch.zeros_like(error), batch.world)).to_dict()
    assert curve["rivals"]["knn"][0] is None
    assert curve["versus"]["knn"][0] is None
    for place in range(1, 5):
        gain = curve["rivals"]["knn"][place]["mean"] - curve["leworld"][place]["mean"]
        assert curve["versus"]["knn"][place]["mean"] == pytest.approx(gain)
    assert len(curve["steps"]) == 4
    assert curve["steps"][0]["mean"] == pytest.approx(curve["leworld"][0]["mean"] - curve["leworld"][1]["mean"])
    assert curve["falls"] == all(step["high"] >= 0 for step in curve["steps"])


def test_the_systems_own_memory_is_not_touched(world, system, batch):
    before = system.memory.snapshot()
    measure_curve(world, system, batch, records=[0, 2])
    after = system.memory.snapshot()
    assert np.array_equal(after.words, before.words)


@pytest.mark.parametrize("records", [[], [2, 1], [1, 1]])
def test_records_that_do_not_ascend_are_refused(world, system, batch, records):
    with pytest.raises(ConfigError, match="do not ascend: give numbers such as"):
        measure_curve(world, system, batch, records=records)


def test_more_records_than_there_are_are_refused(world, system, batch):
    with pytest.raises(ConfigError, match="records"):
        measure_curve(world, system, batch, records=[0, 10])


def test_a_picture_is_drawn(tmp_path, world, system, batch):
    lines = {"oracle": PredictZero.fit(world, BUDGET), "mlp": CopyLast.fit(world, BUDGET)}
    curve = measure_curve(world, system, batch, rivals={"knn": knn}, lines=lines, records=[0, 1, 9])
    draw_curve(curve, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
