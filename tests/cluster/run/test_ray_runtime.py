"""End to end through Ray Train: one ``fit()``, the same bits as one process, and the gate after it."""

import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from ray._private.state import actors
from ray.util import placement_group_table
from rich.console import Console

from cluster.config.presets import load_config
from cluster.placement.topology import plan
from cluster.raylink.session import free_of_one_machine
from cluster.run.checkpoint import load_checkpoint
from cluster.run.evaluate import evaluate
from cluster.run.membership_changes import Change, MembershipChanges
from cluster.run.ray_runtime import launched
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import open_runtime
from leworld.errors import ConfigError
from leworld.worlds.registry import build_world
from tests.actors.training.systems import CHANGES, same_bits

# Ray imports Ray Data with its own deprecated settings.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def final_state(run: RunDir):
    newest = run.newest_checkpoint()
    assert newest is not None
    return load_checkpoint(newest, run.config())


def with_another_slm(run: RunDir) -> RunDir:
    """One joins before the first step."""
    MembershipChanges(run).ask(Change(True, 3))
    return run


def test_fit_gives_the_bits_of_one_process(ray_cluster, tmp_path: Path):
    config = load_config("tiny", [*CHANGES, f"output.dir={tmp_path}"])
    world = build_world(config.world.name, config.world.settings, config.seed)
    run = RunDir.create(config)
    with launched(config, world, plan(config)) as runtime:
        runtime.train(run)
        gate = evaluate(runtime, run, run.newest_checkpoint() or tmp_path, Console(file=io.StringIO()))
    assert gate["beaten_by"] is not None
    assert run.report.is_file()
    names = [process["name"] for process in run.read_timing()["phases"]["refine"]["processes"]]
    assert names[0] == "BLM learner"
    assert len(names) == 1 + config.cluster.shards + config.cluster.slm_actors

    inline = load_config("tiny", [*CHANGES, f"output.dir={tmp_path}", "cluster.mode=inline"])
    other = RunDir.create(inline)
    with open_runtime(inline) as runtime:
        runtime.train(other)
    assert same_bits(final_state(run), final_state(other))
    assert not list(run.path.glob(".ray*"))


def test_parts_that_die_come_back_and_the_run_ends_with_the_same_bits(ray_cluster, tmp_path: Path):
    changes = [*CHANGES, f"output.dir={tmp_path}", "output.checkpoint_every=1"]
    config = load_config("tiny", changes)
    world = build_world(config.world.name, config.world.settings, config.seed)
    run = RunDir.create(config)
    with launched(config, world, plan(config)) as runtime:
        slms, shard = runtime.processes()[-1], runtime.processes()[0]

        def disturb() -> None:
            for phase, process in (("joint", slms), ("refine", shard)):
                while not any(record["phase"] == phase for record in run.records()):
                    time.sleep(0.02)
                os.kill(process.pid, signal.SIGKILL)

        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        runtime.train(run)
        thread.join()
    events = [json.loads(line)["what"] for line in run.events.read_text().splitlines()]
    assert any(event.startswith(f"{slms.name} died") for event in events)

    inline = load_config("tiny", [*changes, "cluster.mode=inline"])
    other = RunDir.create(inline)
    with open_runtime(inline) as runtime:
        runtime.train(other)
    assert same_bits(final_state(run), final_state(other))


@pytest.mark.slow
def test_learners_of_a_team_end_where_one_does_also_when_one_is_killed(ray_cluster, tmp_path: Path):
    changes = [*CHANGES, f"output.dir={tmp_path}", "output.checkpoint_every=1"]
    config = load_config("tiny", [*changes, "cluster.learners=2"])
    world = build_world(config.world.name, config.world.settings, config.seed)
    run = with_another_slm(RunDir.create(config))
    killed = []

    def disturb() -> None:
        while not any(record["phase"] == "joint" for record in run.records()):
            time.sleep(0.02)
        learners = run.read_timing()["phases"]["pretrain"]["processes"][:2]
        assert [learner["name"] for learner in learners] == ["BLM learner 0", "BLM learner 1"]
        os.kill(learners[1]["pid"], signal.SIGKILL)
        killed.append(learners[1]["pid"])

    with launched(config, world, plan(config)) as runtime:
        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        runtime.train(run)
        thread.join()
    assert killed
    events = [json.loads(line)["what"] for line in run.events.read_text().splitlines()]
    assert "BLM learner 1 died" in events
    assert "2 of 2 BLM learners are there" in events

    inline = load_config("tiny", [*changes, "cluster.mode=inline"])
    other = with_another_slm(RunDir.create(inline))
    with open_runtime(inline) as runtime:
        runtime.train(other)
    group, alone = final_state(run), final_state(other)
    assert any(name.startswith("slm.3.") for name in group.slms)
    assert group.position == alone.position
    for found, right in ((group.blm, alone.blm), (group.slms, alone.slms)):
        for name in right:
            if "model." in name:
                torch.testing.assert_close(found[name], right[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_controller_that_dies_leaves_nothing_behind(ray_cluster, tmp_path: Path):
    config = load_config("tiny", [*CHANGES, f"output.dir={tmp_path}", "output.checkpoint_every=1"])
    world = build_world(config.world.name, config.world.settings, config.seed)
    run = RunDir.create(config)

    def disturb() -> None:
        while not any(record["phase"] == "joint" for record in run.records()):
            time.sleep(0.02)
        alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
        os.kill(next(actor["Pid"] for actor in alive if "TrainController" in actor["ActorClassName"]), signal.SIGKILL)

    with launched(config, world, plan(config)) as runtime:
        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        runtime.train(run)
        thread.join()
    assert "Train controller died" in run.events.read_text()
    assert run.records()[-1]["phase"] == "refine"
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}
    detached = [
        actor["ActorClassName"] for actor in actors().values() if actor["IsDetached"] and actor["State"] != "DEAD"
    ]
    assert not [name for name in detached if "PlacementGroup" in name], detached


def test_a_gpu_that_no_machine_of_the_cluster_has_is_refused_before_anything_starts(ray_cluster):
    if free_of_one_machine("GPU") >= 1:
        pytest.skip("here is a GPU")
    config = load_config("tiny", [*CHANGES, "cluster.device=cuda"])
    world = build_world(config.world.name, config.world.settings, config.seed)
    with pytest.raises(ConfigError, match="this machine has no free GPU"), launched(config, world, plan(config)):
        raise AssertionError("it started")
