"""What a run says of itself while it goes: where its seconds go, for TensorBoard and for Prometheus."""

import re
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from actors.ray.metrics import COUNTERS, GAUGES
from actors.training.step_timer import Meter
from cluster.config.presets import load_config
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import open_runtime
from cluster.run.tensorboard import TensorBoardLog
from leworld.training.phase_runner import PHASES, Position
from tests.actors.training.systems import CHANGES


def events(folder: Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of TensorBoard's files: each record has 12 bytes before it and 4 behind it."""
    found = []
    for file in sorted(folder.iterdir()):
        raw, place = file.read_bytes(), 0
        while place < len(raw):
            size = int.from_bytes(raw[place : place + 8], "little")
            event = Event.FromString(raw[place + 12 : place + 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            place += size + 16
    return found


def test_a_meter_counts_since_it_was_asked_last():
    meter = Meter()
    with meter.timed("read"):
        meter.add("reads", 3)
    meter.add("reads", 4)
    found = meter.take()
    assert found["reads"] == 7
    assert found["read_s"] > 0
    assert meter.take() == {}


def test_steps_count_through_all_phases(tmp_path: Path):
    board = TensorBoardLog(tmp_path, Position("joint", 2), {"pretrain": 10, "joint": 5, "refine": 5})
    board.add({"phase": "joint", "step": 3, "num_steps": 5, "loss": 0.5, "meter": {"read_s": 0.25}})
    board.add({"phase": "refine", "step": 1, "num_steps": 5, "loss": 0.25})
    board.close()
    assert events(tmp_path) == [("joint/loss", 13, 0.5), ("joint/read_s", 13, 0.25), ("refine/loss", 16, 0.25)]


def test_a_run_leaves_them_behind(tmp_path: Path):
    config = load_config("tiny", [*CHANGES, f"output.dir={tmp_path}", "cluster.mode=inline"])
    run = RunDir.create(config)
    with open_runtime(config) as runtime:
        runtime.train(run)
    records = run.records()
    joint = [record for record in records if record["phase"] == "joint"]
    for record in joint:
        meter = record["meter"]
        assert {"propose_s", "learn_s", "read_s", "reads", "read_bytes"} <= meter.keys()
        assert sum(meter[name] for name in ("propose_s", "learn_s", "read_s")) <= record["seconds"]
        assert meter["read_bytes"] > 4 * meter["reads"] > 0
        assert 0 < sum(record[f"use_{i}"] for i in range(3)) == pytest.approx(record["reads"])
    shown = {(tag, step): value for tag, step, value in events(run.board)}
    before = sum(len([each for each in records if each["phase"] == phase]) for phase in PHASES[:1])
    for record in joint:
        assert shown["joint/loss", before + record["step"]] == pytest.approx(record["loss"])


@pytest.mark.parametrize("name", [*COUNTERS, *GAUGES])
def test_names_are_those_of_prometheus(name: str):
    assert re.fullmatch(r"leworld_[a-z_]+", name)
    assert name.endswith("_total") == (name in COUNTERS)
    assert (COUNTERS | GAUGES)[name].endswith(".")
