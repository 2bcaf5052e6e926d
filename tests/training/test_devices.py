"""A learner on a GPU: all that it works on is moved there and back. The GPU is pretended; its numbers are the CPU's."""

import pytest
import torch

from leworld.evaluation.gate import EvaluationConfig, GateRun
from leworld.training.phase_runner import PhaseRunner, fleet_config, phase_runner
from leworld.training.slm_training import SLMGroup
from tests.models.tiny import MODEL, PHASES, filled, state_of, stir, tiny_world
from tests.training.pretend_gpu import PretendGPU


def trained(name: str, device: str) -> PhaseRunner:
    world = tiny_world(name)
    fleet = SLMGroup(fleet_config(MODEL, PHASES, 0), world)
    trainer = phase_runner(MODEL, PHASES, world, fleet, filled(world), seed=0, device=device)
    stir(*fleet.slms)
    trainer.progress = list(trainer.steps())
    return trainer


def gate_of(trainer: PhaseRunner) -> dict:
    learner = trainer.train_state
    run = GateRun(learner.world, learner.system, EvaluationConfig(4, baseline_steps=2, baseline_sequences=2), 0)
    list(run.stages())
    return run.result


@pytest.mark.parametrize("name", ["rules", "pointers", "physics"])
def test_all_phases_and_the_gate_move_what_they_need_to_the_device_and_back(name):
    plain = trained(name, "cpu")
    expected_gate = gate_of(plain)
    with PretendGPU() as gpu:
        moved = trained(name, "cuda")
        assert all(weight.device.type == "cuda" for weight in moved.train_state.blm.parameters())
        assert all(weight.device.type == "cpu" for slm in moved.train_state.fleet.slms for weight in slm.parameters())
        gate = gate_of(moved)
        state = state_of(moved)
        old = moved.train_state
        again = phase_runner(MODEL, PHASES, old.world, old.fleet, old.memory, seed=0, device="cuda")
        again.train_state.load_state(moved.train_state.state())
        refreshed = again.train_state.state()
    assert gpu.num_marked > 1000
    expected = state_of(plain)
    assert state.keys() == expected.keys()
    for key, tensor in state.items():
        assert torch.allclose(tensor, expected[key], rtol=1e-3, atol=1e-5), key
    assert all(torch.equal(tensor, state[key]) for key, tensor in refreshed.items())
    assert gate["leworld"] == pytest.approx(expected_gate["leworld"], rel=1e-3)
    assert gate["controls"] == pytest.approx(expected_gate["controls"], rel=1e-3)


def test_the_pretended_gpu_refuses_what_a_real_one_refuses():
    with PretendGPU():
        here, there = torch.ones(3), torch.ones(3).to("cuda")
        assert (here.device.type, there.device.type, (there * 2).device.type) == ("cpu", "cuda", "cuda")
        assert there.cpu().device.type == (there + 1).to("cpu").device.type == "cpu"
        assert torch.arange(3, device=there.device).device.type == "cuda"
        for wrong in (lambda: here + there, lambda: torch.cat([here, there]), lambda: here[there.long()]):
            with pytest.raises(RuntimeError, match="meets tensors on cuda and on the CPU"):
                wrong()
        with pytest.raises(TypeError):
            there.numpy()
        assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]
