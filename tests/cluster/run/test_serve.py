"""``leworld serve``: refused where it would be open, answers where it may, and goes on when a gateway dies."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from ray._private.state import actors

from cluster.cli.app import main
from cluster.config.presets import load_config
from cluster.machines.planning import described, plan_run
from cluster.placement.topology import plan
from cluster.run.ray_runtime import launched
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import make_learner, open_runtime
from cluster.run.serve import ServeOptions, gateway_servers
from cluster.run.training_loop import keep
from leworld.worlds.registry import build_world
from tests.actors.training.systems import CHANGES

INLINE = "cluster.mode=inline"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    """A run with one checkpoint, that was never trained."""
    config = load_config("tiny", [*CHANGES, f"output.dir={tmp_path_factory.mktemp('runs')}", INLINE])
    found = RunDir.create(config)
    with open_runtime(config) as runtime:
        learner = make_learner(runtime)
        runtime.world.populate(runtime.memory(), "train")
        keep(learner, found, config)
    return found


def ask(url: str, widths: dict[str, int], **headers: str) -> dict:
    question = {"current": [[0.5] * widths["state"]], "characteristics": [[0.5] * widths["characteristics"]]}
    request = urllib.request.Request(f"{url}/predict", json.dumps(question).encode(), headers)
    with urllib.request.urlopen(request, timeout=100) as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is open to other machines: give --tokens, or --host 127.0.0.1"),
        (["--host", "here"], "--host here is no address"),
        (["--gateways", "2"], "--gateways 2 with cluster.mode inline, which is one process: use ray"),
        (["--tokens", "nowhere"], "nowhere: cannot be read"),
        (["--checkpoint", "joint-000009"], "no such directory"),
        (["--set", "model.num_slms=2"], "name, seed, world and model of a run are fixed"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(run, options, line, capsys):
    assert main(["serve", str(run.path), *options]) == 2
    assert line in capsys.readouterr().err


def test_it_answers_until_it_is_ended(run, tmp_path: Path):
    tokens = tmp_path / "tokens"
    tokens.write_text("s3cret ada\n")
    command = [
        sys.executable,
        "-m",
        "cluster",
        "serve",
        str(run.path),
        "--port",
        "0",
        "--tokens",
        str(tokens),
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += process.stdout.readline()
        outcome = json.loads(text)
        assert outcome["checkpoint"].endswith("pretrain-000000")
        found = ask(outcome["urls"][0], {"state": 8, "characteristics": 8}, Authorization="Bearer s3cret")
        assert len(found["next_state"][0]) == 8
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gateways_that_die_are_opened_again(run, ray_cluster):
    config = load_config("tiny", CHANGES)
    world = build_world(config.world.name, config.world.settings, config.seed)
    with open_runtime(run.config()) as inline:
        state = make_learner(inline).state()
    widths = {"state": world.spec.state_dim, "characteristics": world.spec.char_dim}
    options = ServeOptions("127.0.0.1", 0, 2, None)
    with (
        launched(config, world, plan(config)) as runtime,
        gateway_servers(runtime, state, options, None) as (urls, news),
    ):
        assert len(set(urls)) == 2
        before = [ask(url, widths) for url in urls]
        assert before[0] == before[1]
        assert news() == []
        os.kill(pids()[0], signal.SIGKILL)
        said = []
        while not said:
            said = news()
            time.sleep(0.1)
        assert said in [[f"gateway {number} died; another one answers there now"] for number in (0, 1)]
        killed = int(said[0].split()[1])
        assert ask(urls[1 - killed], widths) == before[0]


def pids() -> list[int]:
    """Of the gateways, in the order in which they were started."""
    found = [each for each in actors().values() if each["ActorClassName"] == "Gateway" and each["State"] == "ALIVE"]
    return [each["Pid"] for each in sorted(found, key=lambda each: each["StartTime"])]


def test_gateways_are_planned_on_the_nodes_of_their_role():
    nodes = described(["cpus=4,count=2", "cpus=1,role=gateway,count=2"])
    placement = plan_run(load_config("tiny", CHANGES), nodes, 3)
    found = {site.name: [part.name for part in site.parts if part.role == "gateway"] for site in placement.sites}
    assert sorted(map(len, found.values())) == [0, 0, 1, 2]
    assert not found["node-0"]
    assert not found["node-1"]
