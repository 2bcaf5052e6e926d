"""Devices: a GPU is taken where there is one, insisted on where it was asked for, and left alone otherwise."""

import pytest
import torch

from cluster.config.presets import load_config
from cluster.run.devices import choose_device, torch_gpus
from cluster.run.ray_runtime import scaling, worker_device
from cluster.run.runtimes import make_learner, open_runtime
from leworld.errors import ConfigError
from tests.actors.training.systems import CHANGES


@pytest.mark.parametrize(
    ("wish", "gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("auto", 0.5, "cpu"), ("auto", 8.0, "cuda"),
     ("cpu", 0, "cpu"), ("cpu", 1, "cpu"), ("cuda", 1, "cuda"), ("cuda", 4, "cuda")],
)  # fmt: skip
def test_a_wish_and_what_there_is_decide(wish, gpus: float, device: str):
    assert choose_device(wish, gpus, "this machine") == device


@pytest.mark.parametrize("gpus", [0, 0.5])
def test_a_gpu_that_is_not_there_is_refused_in_one_line(gpus: float):
    with pytest.raises(ConfigError) as caught:
        choose_device("cuda", gpus, "10.0.0.1:6379")
    assert str(caught.value) == "cluster.device cuda: 10.0.0.1:6379 has no free GPU; set cluster.device to auto or cpu"


@pytest.mark.parametrize(
    ("wish", "granted", "gpus", "device"),
    [("auto", "cuda", 1, "cuda"), ("auto", "cuda", 0, "cpu"), ("auto", "cpu", 1, "cpu"), ("cpu", "cpu", 1, "cpu"),
     ("cuda", "cuda", 1, "cuda")],
)  # fmt: skip
def test_a_worker_uses_what_it_was_granted_and_its_torch_can_use(wish, granted: str, gpus: int, device: str):
    assert worker_device(wish, granted, gpus) == device


def test_a_worker_whose_torch_cannot_use_the_gpu_asked_for_says_so():
    with pytest.raises(ConfigError, match="torch on the learner's machine has no free GPU"):
        worker_device("cuda", "cuda", 0)


def test_the_worker_holds_a_gpu_only_for_a_learner_on_one():
    assert scaling(1, 2, "cpu", []).total_resources.get("GPU", 0) == 0
    assert scaling(1, 2, "cuda", []).total_resources["GPU"] == 1
    for device in ("cpu", "cuda"):
        assert scaling(1, 3, device, []).total_resources["CPU"] >= 3
        assert scaling(1, 3, device, []).num_workers == 1


def inline(*changes: str):
    return load_config("tiny", [*CHANGES, "cluster.mode=inline", *changes])


@pytest.mark.parametrize(("wish", "gpus", "device"), [("auto", 0, "cpu"), ("cpu", 1, "cpu"), ("auto", 1, "cuda")])
def test_one_process_takes_the_device_for_training_and_evaluation(monkeypatch, wish: str, gpus: int, device: str):
    monkeypatch.setattr("cluster.run.runtimes.torch_gpus", lambda: gpus)
    with open_runtime(inline(f"cluster.device={wish}")) as runtime:
        assert runtime.device == device
        if device == "cpu":
            learner = make_learner(runtime)
            assert learner.system.device == "cpu"
            assert {weight.device.type for weight in learner.system.blm.parameters()} == {"cpu"}


@pytest.mark.skipif(torch_gpus() > 0, reason="here is a GPU")
def test_a_run_that_insists_on_a_gpu_stops_before_it_starts():
    wanted = r"cluster\.device cuda: torch on this machine has no free GPU"
    with pytest.raises(ConfigError, match=wanted), open_runtime(inline("cluster.device=cuda")):
        raise AssertionError("it started")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_real_gpu_learns_what_the_cpu_learns():
    found = {}
    for device in ("cpu", "cuda"):
        with open_runtime(inline(f"cluster.device={device}")) as runtime:
            learner = make_learner(runtime)
            runtime.world.populate(runtime.memory(), "train")
            found[device] = [progress.metrics["loss"] for progress in learner.steps()]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-2)
