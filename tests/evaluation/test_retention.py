import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from leworld.errors import ConfigError, DataError
from leworld.evaluation.record_sets import SetReader, body_streams
from leworld.evaluation.retention import RetentionConfig, draw_retention, measure_retention, records_needed
from leworld.evaluation.retention_policies import (
    KeepingConfig,
    by_order,
    fitness_order,
    information_lost,
    keep_by_information,
    left_out_errors,
    policies,
    typical_moments,
)
from leworld.models.system import System
from leworld.worlds.trajectories import TrajectoryWorld
from tests.models.tiny import tiny_trainer, tiny_world

KEEPING = KeepingConfig(probes=3, dropped=0.5, train_bodies=4)


@pytest.fixture(scope="module")
def world() -> TrajectoryWorld:
    world = tiny_world("physics", sequences_per_body=3)
    assert isinstance(world, TrajectoryWorld)
    return world


@pytest.fixture(scope="module")
def system(world) -> System:
    learner = tiny_trainer(world, stirred=True).train_state
    return System(learner.blm, learner.fleet, learner.memory, world.spec)


@pytest.fixture(scope="module")
def reader(world, system) -> SetReader:
    return SetReader(system, body_streams(world, "test"))


def test_streams_are_what_is_stored_and_the_earlier_sequences_and_the_last_is_left_to_predict(world):
    streams = body_streams(world, "test")
    assert streams.seen.inputs.shape == (3, 9 + 2 * 4, 4)
    assert streams.predicted.inputs.shape == (3, 4, 4)
    body = streams.world[1]
    own = world.data.inputs[world.data.world == body]
    assert torch.equal(streams.predicted.inputs[1], own[-1])
    assert torch.equal(streams.seen.inputs[1, 9:], own[:2].flatten(0, 1))
    assert torch.equal(streams.seen.past[1, 9:], world.data.past[world.data.world == body][:2].flatten(0, 1))
    assert torch.equal(streams.characteristics[1], world.data.characteristics[body])
    assert len(body_streams(world, "train", 2).world) == 2


def test_words_are_those_that_the_world_itself_would_write(world):
    streams = body_streams(world, "test")
    stored = streams.words[:, :9].reshape(3, world.num_tables, -1)
    memory = tiny_trainer(world).train_state.memory
    batch = world.batch("test", 8, torch.Generator().manual_seed(0))
    for body, start in zip(batch.world[:, 0], batch.labels.start[:, 0], strict=True):
        row = int((streams.world == body).nonzero())
        length = np.full(world.num_tables, world.spec.read_words)
        assert (memory.read(start.numpy(), length).words.reshape(world.num_tables, -1) == stored[row]).all()


def test_a_set_that_is_the_bodys_memory_gives_the_error_of_reading_that_memory(world, system, reader):
    streams = reader.streams
    # Record j of a set goes to table j % N; the memory has them table by table.
    per_table = 9 // world.num_tables
    kept = torch.arange(9).view(world.num_tables, per_table).T.flatten().expand(3, -1)
    found = reader.test_errors(kept)
    batch = world.batch("test", 40, torch.Generator().manual_seed(0))
    last = {int(body): (world.data.world == body).nonzero()[-1] for body in streams.world}
    for row, body in enumerate(streams.world):
        chosen = next(i for i in range(40) if torch.equal(batch.current[i], world.data.inputs[last[int(body)]][0]))
        for t in range(4):
            now = batch.map(lambda x, chosen=chosen: x[chosen : chosen + 1]).at(t)
            query = reader._predicted.query.map(lambda x, row=row, t=t: x[row, t : t + 1])
            step = system.predict(query, ranges=now.labels, mask=torch.ones(1, world.num_tables))
            error = ((step.next_state - now.target) / world.spec.scale).square().mean()
            assert float(found[row, t]) == pytest.approx(float(error), rel=1e-3)


def test_variants_do_not_depend_on_each_other(reader):
    body, kept = torch.tensor([0, 1, 2, 0]), torch.tensor([[0, 1], [3, 2], [5, 5], [7, 8]])
    probes = torch.tensor([[9, 10, 11]]).expand(4, -1)
    whole = reader.seen_errors(body, kept, probes)
    for v in range(4):
        alone = reader.seen_errors(body[v : v + 1], kept[v : v + 1], probes[v : v + 1])
        assert torch.allclose(alone[0], whole[v], rtol=1e-3)


def test_leaving_one_out_is_reading_all_the_others(reader):
    body, kept, probes = torch.tensor([1, 2]), torch.tensor([[0, 4, 8], [1, 2, 3]]), torch.tensor([[9, 10], [11, 12]])
    found = left_out_errors(reader, body, kept, probes)
    for m, others in enumerate(([1, 2], [0, 2], [0, 1])):
        assert torch.allclose(found[:, m], reader.seen_errors(body, kept[:, others], probes).mean(1), rtol=1e-3)


def test_surprise_is_the_error_without_memory(reader):
    surprise = reader.surprise()
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    expected = reader.seen_errors(torch.tensor([2]), nothing, torch.tensor([[5, 16]]))
    assert torch.allclose(surprise[2, [5, 16]], expected[0], rtol=1e-3)


def test_every_policy_keeps_as_many_as_there_is_room_for_each_once(reader):
    keeps = policies(reader, typical_moments(reader), KEEPING, 0)
    assert list(keeps) == ["first", "recent", "random", "surprise", "fitness", "information"]
    for keep in keeps.values():
        for room in (0, 1, 5, 17):
            kept = keep(room)
            assert kept.shape == (3, room)
            assert all(len(row.unique()) == room for row in kept)
            assert ((kept >= 0) & (kept < 17)).all()
    assert keeps["first"](2)[0].tolist() == [0, 1]
    assert keeps["recent"](2)[0].tolist() == [16, 15]
    surprise = reader.surprise()
    assert torch.equal(keeps["surprise"](1)[:, 0], surprise.argmax(1))


class Useful:
    """A reader to which some records are worth much: the error falls by one for each of them that is read."""

    def __init__(self, streams, useful: list[int]) -> None:
        self.streams, self.useful = streams, torch.tensor(useful)

    def seen_errors(self, body, kept, probes):
        return (10 - torch.isin(kept, self.useful).sum(1, keepdim=True)).float().expand(-1, probes.shape[1])


def test_fitness_keeps_what_is_missed_most(reader):
    useful = [2, 5, 11, 16]
    order = fitness_order(Useful(reader.streams, useful), KEEPING, 0)
    assert torch.equal(order.sort(1).values, torch.arange(17).expand(3, -1))
    # Each half ranks its own, and the halves take turns: twice as many hold them all, wherever chance put them.
    assert all(torch.isin(torch.tensor(useful), row[:8]).all() for row in order)


def test_information_lost_is_the_rise_of_the_mean_variance_without_a_record():
    random = torch.Generator().manual_seed(0)
    rows, states = (torch.randn(2, n, 4, generator=random).double() for n in (6, 50))
    typical, noise = states[0].T @ states[0] / 50, 0.3 * torch.eye(4).double()

    def variance(kept):
        return torch.trace(typical @ torch.linalg.inv(kept.T @ kept + noise))

    found = information_lost(rows, typical, noise)
    for body in range(2):
        for m in range(6):
            without = torch.cat([rows[body, :m], rows[body, m + 1 :]])
            assert found[body, m] == pytest.approx(float(variance(without) - variance(rows[body])), rel=1e-6)


def test_information_lets_go_of_what_is_there_twice(reader):
    typical = typical_moments(reader)
    inputs = reader.streams.seen.inputs.clone()
    inputs[:, 1:6] = inputs[:, :1]
    twice = replace(reader.streams, seen=replace(reader.streams.seen, inputs=inputs))
    kept = keep_by_information(SetReader(reader.system, twice), typical)(8)
    assert (torch.isin(kept, torch.arange(6)).sum(1) < 6).all()


def test_without_a_regression_there_is_no_policy_by_information(reader):
    assert "information" not in policies(reader, None, KEEPING, 0)


@pytest.mark.parametrize(
    ("errors", "needed"),
    [([4.0, 2.0, 1.0], 3.0), ([4.0, 1.0, 0.5], 1.0), ([4.0, 2.0, 0.5], 2 * math.sqrt(2) - 1), ([1.0, 1.0, 1.0], 0.0),
     ([4.0, 2.0, 1.5], None)],
)  # fmt: skip
def test_the_room_needed_is_told_between_the_rooms_tried(errors, needed):
    found = records_needed((0, 1, 3), errors, 1.0)
    assert found == (None if needed is None else pytest.approx(needed))


def test_the_result_is_json_and_draws(tmp_path, world, system):
    config = RetentionConfig(rooms=(0, 2, 6), keeping=KEEPING)
    result = measure_retention(world, system, config, 0)
    assert json.loads(json.dumps(result)) == result
    assert result["ratio"]["first"] == 1
    assert result["words"]["first"] == 6 * world.spec.record_words
    assert result["samples"] == 12
    assert all(found[0] == result["policies"]["first"][0] for found in result["policies"].values())
    gain = result["policies"]["random"][1]["mean"] - result["policies"]["information"][1]["mean"]
    assert result["versus_random"]["information"][1]["mean"] == pytest.approx(gain, rel=1e-4, abs=1e-6)
    draw_retention(result, tmp_path / "retention.png")
    assert (tmp_path / "retention.png").read_bytes().startswith(b"\x89PNG")


def test_an_order_is_cut_at_the_room():
    assert by_order(torch.tensor([[3, 1, 2]]))(2).tolist() == [[3, 1]]


def test_rooms_larger_than_a_stream_and_single_sequences_are_refused(world, system):
    with pytest.raises(ConfigError, match="18 records are more than the 17 of a stream"):
        measure_retention(world, system, RetentionConfig(rooms=(0, 18), keeping=KEEPING), 0)
    single = tiny_world("physics", sequences_per_body=1)
    with pytest.raises(DataError, match="a test body has 1 sequences"):
        body_streams(single, "test")


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (RetentionConfig, {"rooms": (2, 1)}, "rooms"),
        (RetentionConfig, {"rooms": (3,)}, "rooms"),
        (KeepingConfig, {"probes": 0}, "probes"),
        (KeepingConfig, {"dropped": 1.0}, "dropped 1.0"),
        (KeepingConfig, {"train_bodies": 0}, "train_bodies"),
    ],
)
def test_settings_out_of_range_are_refused(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)
