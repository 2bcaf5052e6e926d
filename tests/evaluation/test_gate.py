import json
import math
from typing import Any

import pytest
import torch

from leworld.errors import ConfigError
from leworld.evaluation import gate as gate_module
from leworld.evaluation.baselines import WITH_MEMORY, applicable
from leworld.evaluation.gate import (
    ROLLED,
    EvaluationConfig,
    GateRun,
    address_figures,
    by_table,
    other_requests,
    rows,
    stale_memory,
    verdict,
)
from leworld.evaluation.trials import teacher_forced
from leworld.memory import WordStore
from leworld.rng import generator
from leworld.worlds import World
from leworld.worlds.base import Rewritable
from tests.models.tiny import filled, tiny_trainer, tiny_world

CONFIG = EvaluationConfig(sequences=6, baseline_steps=2, baseline_sequences=2)
KEYS = {
    "world", "leworld", "floor", "oracle", "baselines", "controls", "oracle_addresses", "hit_top1", "hit_top4",
    "hit_asked", "exact_mask", "requests_per_prediction", "reads_per_prediction", "info_gain",
    "info_controls", "rollout", "versus", "beaten_by", "budget", "samples", "rewritten", "rewritten_ratio", "ratios",
    "best_no_memory", "wrong_memory",
}  # fmt: skip
MODES = ("teacher_forced", "free_running")
NULLS = {
    "rules": set(),
    "pointers": set(),
    "physics": {"floor", "exact_mask"},
    "seed": {"hit_top1", "hit_top4"},
}


def gate_run(world: World, seed: int = 0) -> GateRun:
    return GateRun(world, tiny_trainer(world, stirred=True).train_state.system, CONFIG, seed)


@pytest.fixture(scope="module", params=list(NULLS))
def run(request) -> GateRun:
    made = gate_run(tiny_world(request.param))
    made.seen = list(made.stages())
    return made


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def test_all_keys_are_there_with_nulls_where_the_world_has_no_truth(run):
    gate = run.result
    assert gate.keys() == KEYS
    name = run.world.spec.name
    nulls = NULLS[name] | (set() if isinstance(run.world, Rewritable) else {"rewritten", "rewritten_ratio"})
    # On physics, a block that collided while it was placed has an address that no input tells.
    nulls |= set() if (~run.batch.keyed & (run.batch.labels.length > 0)).any() else {"hit_asked"}
    assert {key for key, value in gate.items() if value is None} == nulls
    assert gate["world"] == name
    assert set(gate["controls"]) == {"zeroed", "shuffled", "stale", "random"}
    assert set(gate["baselines"]) == set(applicable(run.world)) - {"oracle"}
    assert set(gate["versus"]) == set(applicable(run.world))
    assert set(gate["info_controls"]) == {"shuffled", "random"}
    assert gate["samples"] == 6 * run.world.spec.horizon
    assert set(gate["rollout"]) == {"leworld", *(set(ROLLED) & set(applicable(run.world)))}
    for modes in gate["rollout"].values():
        assert {name: len(steps) for name, steps in modes.items()} == dict.fromkeys(MODES, run.world.spec.horizon)


def test_the_result_is_finite_and_goes_through_json(run):
    text = json.dumps(run.result, allow_nan=False)
    assert json.loads(text) == run.result
    assert all(math.isfinite(number) for number in numbers(run.result))
    assert len(numbers(run.result)) > 40


def test_every_figure_is_of_the_same_samples(run):
    gate = run.result
    trial = teacher_forced(run.system, run.batch)
    assert gate["leworld"] == pytest.approx(trial.error.double().mean().item())
    assert gate["rollout"]["leworld"]["teacher_forced"] == pytest.approx(trial.error.mean(0).tolist())
    for name, modes in gate["rollout"].items():
        assert modes["free_running"][0] == pytest.approx(modes["teacher_forced"][0], rel=1e-4)
        mse = {"leworld": gate["leworld"], "oracle": gate["oracle"], **gate["baselines"]}[name]
        assert sum(modes["teacher_forced"]) / run.world.spec.horizon == pytest.approx(mse, rel=1e-4)
    assert gate["reads_per_prediction"] == pytest.approx(trial.reads.double().sum(-1).mean().item())
    for name, interval in gate["versus"].items():
        theirs = gate["oracle"] if name == "oracle" else gate["baselines"][name]
        assert interval["low"] <= interval["mean"] <= interval["high"]
        if run.batch.world is None:
            # Sequences are groups of one size; bodies are not, so there the mean is over bodies.
            assert interval["mean"] == pytest.approx(theirs - gate["leworld"], rel=1e-3, abs=1e-5)
    zeros = torch.zeros_like(run.batch.target)
    plain = ((zeros - run.batch.target) / run.world.spec.scale).square().mean().item()
    assert gate["baselines"]["predict_zero"] == pytest.approx(plain, rel=1e-4)


def test_beaten_by_names_the_baselines_that_are_better(run):
    gate = run.result
    assert set(gate["beaten_by"]) == {name for name, mse in gate["baselines"].items() if mse < gate["leworld"]}
    assert "oracle" not in gate["beaten_by"]


def test_ratios_have_intervals_around_the_quotients_of_the_table(run):
    gate = run.result
    best = gate["best_no_memory"]
    assert best not in WITH_MEMORY
    assert gate["baselines"][best] == min(
        gate["baselines"][name] for name in gate["baselines"] if name not in WITH_MEMORY
    )
    theirs = {**gate["baselines"], "floor": gate["floor"], "oracle": gate["oracle"]}
    theirs["no_memory"] = gate["baselines"][best]
    assert set(gate["ratios"]) == {"floor", "oracle", "no_memory", "knn", "least_squares", "gru_context"}
    assert set(gate["wrong_memory"]) == {"shuffled", "random", "zeroed"}
    for name, found in gate["ratios"].items():
        assert (found is None) == (theirs.get(name) is None)
    quotients = [(found, gate["leworld"] / theirs[name]) for name, found in gate["ratios"].items() if found]
    quotients += [(found, gate["controls"][name] / theirs[best]) for name, found in gate["wrong_memory"].items()]
    for found, quotient in quotients:
        assert found["low"] <= found["mean"] <= found["high"]
        if run.batch.world is None:
            assert found["mean"] == pytest.approx(quotient, rel=1e-4)


def test_rewritten_is_of_other_samples_and_its_ratio_of_both(run):
    gate = run.result
    if not isinstance(run.world, Rewritable):
        assert gate["rewritten"] is gate["rewritten_ratio"] is None
        return
    assert gate["rewritten"] != gate["leworld"]
    assert gate["rewritten_ratio"]["low"] < gate["rewritten_ratio"]["mean"] < gate["rewritten_ratio"]["high"]
    if run.batch.world is None:
        assert gate["rewritten_ratio"]["mean"] == pytest.approx(gate["rewritten"] / gate["leworld"], rel=1e-4)
    again = run.world.batch("test", 6, generator(0, "gate"))
    assert torch.equal(again.target, run.batch.target)


def test_stages_count_up_to_their_total(run):
    assert [stage.done for stage in run.seen] == list(range(1, run.seen[0].total + 1))
    assert {stage.total for stage in run.seen} == {len(run.seen)}
    parts = ["system", "controls", "requests", "rollouts", "rewritten"]
    assert [stage.name for stage in run.seen] == parts + applicable(run.world)


def test_same_seed_same_figures_and_another_seed_other_samples():
    world = tiny_world("rules")
    first, again, other = gate_run(world), gate_run(world), gate_run(world, seed=1)
    for made in (first, again, other):
        list(made.stages())
    assert first.result == again.result
    assert first.result["leworld"] != other.result["leworld"]


@pytest.mark.parametrize("name", list(NULLS))
def test_stale_memory_is_another_content_at_the_same_addresses(name):
    world = tiny_world(name)
    stale, true = stale_memory(world), filled(world)
    labels = world.batch("test", 4, generator(0, "stale")).labels
    known = labels.length > 0
    start, length = labels.start[known].numpy(), labels.length[known].numpy()
    old, new = stale.read(start, length).words, true.read(start, length).words
    assert len(old) > 0
    assert (old != new).mean() > 0.5
    assert old.any()


def test_other_requests_say_nothing_of_the_sample():
    asked = torch.randn(50, 8, generator=generator(0, "asked")) * 3
    requests = other_requests(generator(0, "draw"))
    mixed = requests["shuffled"](asked)
    places = [(asked == row).all(1).nonzero().item() for row in mixed]
    assert sorted(places) == list(range(50))
    assert all(place != row for row, place in enumerate(places))
    noise = requests["random"](asked)
    assert noise.std().item() == pytest.approx(asked.std().item(), rel=0.15)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), asked.flatten()]))[0, 1]) < 0.2


def gate_of(ours: float, **baselines: float) -> gate_module.Gate:
    beaten = [name for name, mse in baselines.items() if mse < ours]
    return {
        "leworld": ours, "oracle_addresses": 0.02, "floor": 0.01, "oracle": None, "baselines": baselines,
        "controls": {"zeroed": 0.5, "stale": 0.4}, "beaten_by": beaten, "rewritten": None,
    }  # fmt: skip


def test_the_verdict_says_first_what_beats_us():
    assert verdict(gate_of(0.2, mlp=0.1, gru=0.15, linear=0.3)) == (
        "Beaten by mlp, gru: LeWorld's error is 2.00 x that of mlp."
    )
    assert verdict(gate_of(0.05, mlp=0.1, linear=0.3)) == (
        "No baseline wins: LeWorld's error is 0.50 x that of the best, mlp."
    )
    assert verdict(gate_of(0.1, mlp=0.1)).startswith("No baseline wins")


def test_the_table_has_ours_first_and_leaves_out_what_is_not_known():
    table = rows(gate_of(0.05, mlp=0.3, linear=0.1))
    assert [row[:2] for row in table] == [
        ("ours", "leworld"), ("ours", "leworld, right addresses"), ("limit", "floor"), ("baseline", "linear"),
        ("baseline", "mlp"), ("control", "stale"), ("control", "zeroed"),
    ]  # fmt: skip
    assert [row[2] for row in table] == [0.05, 0.02, 0.01, 0.1, 0.3, 0.4, 0.5]
    assert rows({**gate_of(0.05, mlp=0.3), "rewritten": 0.06})[2] == ("ours", "leworld, memory rewritten", 0.06)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sequences": 1}, "evaluation.sequences 1 is below 2"),
        ({"baseline_steps": 0}, "steps of a baseline's budget is 0"),
        ({"baseline_sequences": -1}, "sequences of a baseline's budget is -1"),
        ({"baseline_lr": 0.0}, "lr of a baseline's budget is 0.0"),
    ],
)
def test_bad_settings_are_refused_before_any_work(settings, named):
    with pytest.raises(ConfigError) as caught:
        EvaluationConfig(**settings)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_slms_that_joined_or_left_are_counted_by_their_tables():
    world = tiny_world("rules")
    trainer = tiny_trainer(world, stirred=True)
    system = trainer.train_state.system
    batch = world.batch("test", 6, generator(0))
    before, oracle = teacher_forced(system, batch), teacher_forced(system, batch, oracle=True)
    trainer.join(3)
    assert system.tables.tolist() == [0, 1, 2, 0]
    # A newcomer is not asked yet, and what is right is read once.
    joined = teacher_forced(system, batch)
    assert torch.allclose(joined.error, before.error, atol=1e-5)
    assert torch.allclose(teacher_forced(system, batch, oracle=True).error, oracle.error, atol=1e-5)
    assert not joined.mask[..., 3].any()
    figures = [address_figures(trial, batch, tables) for trial, tables in ((before, None), (joined, system.tables))]
    assert figures[0]["exact_mask"] == figures[1]["exact_mask"]
    assert figures[0]["reads_per_prediction"] == figures[1]["reads_per_prediction"]
    trainer.leave(0)
    assert list(GateRun(world, system, CONFIG, 0).stages())
    trainer.leave(1)
    left = address_figures(teacher_forced(system, batch), batch, system.tables)
    # Table 1 has no SLM now: where it matters, no mask is right.
    assert left["exact_mask"] <= float((~batch.relevant[..., 1]).double().mean())


def test_a_table_is_trusted_where_any_of_its_slms_is():
    mask = torch.tensor([[True, False, False, False], [False, False, False, True], [False, False, False, False]])
    relevant = torch.zeros(3, 3, dtype=torch.bool)
    assert by_table(mask, torch.tensor([0, 1, 2, 1]), relevant).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert by_table(mask[:, :2], torch.tensor([2, 0]), relevant).int().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_the_gate_leaves_system_and_memory_as_they_were():
    world = tiny_world("physics")
    run = gate_run(world)
    assert isinstance(run.system.memory, WordStore)
    before = run.system.memory.snapshot().words, run.system.fleet.state()
    list(run.stages())
    assert (run.system.memory.snapshot().words == before[0]).all()
    assert all(torch.equal(tensor, run.system.fleet.state()[name]) for name, tensor in before[1].items())
