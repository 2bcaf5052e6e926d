"""Placement: everything goes where it does when a run starts, and what cannot fit is named with what is missing."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.ray.node_placement import nodes_for
from cluster.cli.app import main
from cluster.machines.planning import described
from cluster.placement.planner import GIB, TORCH_BYTES, place
from cluster.placement.topology import Topology
from leworld.errors import ConfigError


def topology(slms: int = 3, shards: int = 2, copies: int = 1, cpus: int = 1, gpus: int = 0) -> Topology:
    return Topology(tuple(range(shards)), tuple((i,) for i in range(slms)), copies, cpus, gpus)


def placed(asked: Topology, *nodes: str):
    return place(asked, 1000, 2000, described(nodes))


def hosts(placement, role: str) -> dict[str, list[str]]:
    return {site.name: [part.name for part in site.parts if part.role == role] for site in placement.sites}


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_every_part_is_somewhere_once_and_copies_are_apart(slms: int, shards: int, copies: int, nodes: int):
    placement = placed(topology(slms, shards, copies), f"cpus=2,count={nodes}")
    parts = Counter(part.name for site in placement.sites for part in site.parts)
    assert set(parts.values()) == {1}
    assert len(parts) == 1 + slms + shards * copies
    if copies <= nodes:
        for site in placement.sites:
            of = Counter(part.name.split(",")[0] for part in site.parts if part.role == "memory")
            assert max(of.values(), default=0) <= 1
    assert bool([note for note in placement.notes if "are on" in note]) == (copies > nodes)
    assert not placement.problems


def test_slm_actors_go_where_a_run_puts_them():
    nodes = described(["cpus=0", "cpus=2,count=3"])
    found = hosts(place(topology(slms=5), 1, 1, nodes), "slm")
    where = nodes_for("slm", 5, nodes)
    assert [len(found[name]) for name in where] == [where.count(name) for name in where]
    assert not found["node-0"], "a head without CPUs is spared"


def test_parts_go_to_nodes_of_their_role():
    placement = placed(topology(), "cpus=4", "cpus=2,role=slm,count=2", "cpus=2,role=memory", "cpus=1,role=learner")
    assert all(not names for name, names in hosts(placement, "slm").items() if name not in ("node-1", "node-2"))
    assert hosts(placement, "memory")["node-3"] == ["shard 0", "shard 1"]
    assert hosts(placement, "learner")["node-4"] == ["learner 0"]


@pytest.mark.parametrize(
    ("asked", "nodes", "said"),
    [
        (
            topology(cpus=8),
            ["cpus=4", "cpus=2"],
            r"needs 8 CPUs .* has 4: set cluster.threads to 4 or less, or",
        ),
        (topology(cpus=2), ["cpus=0.5"], r"largest has 0.5: add a node with 2"),
        (topology(gpus=1), ["cpus=4,gpus=0"], r"needs a GPU .* add one, or take cpu"),
        (
            topology(slms=9),
            ["cpus=4,memory=2GiB"],
            r"its parts \(1 learner, 9 slm, 2 memory\) hold at least",
        ),
    ],
)
def test_what_is_missing_is_said(asked: Topology, nodes: list[str], said: str):
    (problem,) = placed(asked, *nodes).problems
    with pytest.raises(ConfigError, match=said):
        raise ConfigError(problem)


def test_as_many_learners_as_fit_are_placed():
    asked = Topology((0,), ((0,),), 1, 2, 0, learners=5)
    placement = placed(asked, "cpus=4", "cpus=3", "cpus=1")
    assert hosts(placement, "learner") == {"node-0": ["learner 0", "learner 2"], "node-1": ["learner 1"], "node-2": []}
    assert not placement.problems
    assert "only 3 of 5 learners fit" in placement.notes[-1]


def test_memory_that_is_just_enough_is_enough():
    need = placed(topology(), "cpus=1").sites[0].used_bytes
    assert not placed(topology(), f"cpus=1,memory={need}").problems
    assert placed(topology(), f"cpus=1,memory={need - 1}").problems
    assert 4 * TORCH_BYTES < need < 2 * GIB


@pytest.mark.parametrize("text", ["", "cpu=3", "cpus=", "cpus=x", "cpus=1,count=0", "cpus=1,memory=lots", "cpus=-1"])
def test_nodes_that_are_none_are_refused(text: str):
    with pytest.raises(ConfigError, match=r"--node .*; give such as cpus=16"):
        described([text])


def test_command(capsys: pytest.CaptureFixture[str]):
    assert main(["cluster", "plan", "--config", "tiny", "--node", "cpus=2,memory=8G,count=2", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert [len(node["parts"]) for node in outcome["nodes"]] == [4, 2]
    assert main(["cluster", "plan", "--config", "tiny", "--node", "cpus=2,count=9", "-s", "cluster.threads=3"]) == 1
    shown = capsys.readouterr().out
    assert "cannot run: a learner needs 3 CPUs" in shown
    assert "more nodes like these" in shown
