"""Topology: everything is hosted once, and what cannot fit is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.presets import load_config
from cluster.placement.topology import check_cpus, plan, spread
from leworld.errors import ConfigError


@given(st.integers(1, 50), st.integers(1, 50))
def test_every_slm_has_one_host_and_hosts_are_even(num_slms: int, num_actors: int):
    num_actors = min(num_slms, num_actors)
    hosts = spread(num_slms, num_actors)
    assert len(hosts) == num_actors
    assert [slm for host in hosts for slm in host] == list(range(num_slms))
    assert max(map(len, hosts)) - min(map(len, hosts)) <= 1


def test_plan_follows_the_config():
    topology = plan(load_config("tiny", ["cluster.shards=4", "cluster.slm_actors=2", "cluster.threads=2"]))
    assert topology.shard_ids == (0, 1, 2, 3)
    assert topology.slm_ids == ((0,), (1, 2))
    assert topology.learner_cpus == 2


def test_more_actors_than_slms_are_refused():
    with pytest.raises(ConfigError, match=r"slm_actors 4 is above model\.num_slms 3: set it to 3 or less"):
        plan(load_config("tiny", ["cluster.slm_actors=4"]))


@pytest.mark.parametrize(("cpus", "way_out"), [(2.0, "set cluster.threads to 2 or less"), (0.0, "wait for CPUs")])
def test_too_few_cpus_are_refused(cpus: float, way_out: str):
    topology = plan(load_config("tiny", ["cluster.threads=3"]))
    check_cpus(topology, 3.0, "this machine")
    with pytest.raises(ConfigError, match=f"needs 3 CPUs .* this machine has {cpus:g} free: {way_out}"):
        check_cpus(topology, cpus, "this machine")
