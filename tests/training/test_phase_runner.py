from dataclasses import replace
from itertools import islice

import pytest
import torch

from leworld.errors import CheckpointError
from leworld.memory import WordStore
from leworld.training import phase_runner as trainer_module
from leworld.training.phase_runner import PHASES as PHASE_NAMES
from leworld.training.phase_runner import PhaseRunner, PhasesConfig, Position, fleet_config, mean_metrics
from leworld.types import Batch
from leworld.worlds import World
from tests.models.tiny import MODEL, PHASES, filled, same_state, state_of, tiny_trainer, tiny_world

CHUNK = 2
NUM_STEPS = {"pretrain": 5, "joint": 3, "refine": 2}
SHORT = replace(
    PHASES,
    pretrain=replace(PHASES.pretrain, steps=3, slm_steps=5),
    joint=replace(PHASES.joint, steps=3),
    refine=replace(PHASES.refine, steps=2),
)
LABEL_FREE = replace(SHORT, labels=False, refine=replace(PHASES.refine, steps=0))


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(trainer_module, "CHUNK_STEPS", CHUNK)


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world("rules")


def made(world: World, seed: int = 0, phases: PhasesConfig = SHORT, memory: WordStore | None = None) -> PhaseRunner:
    return tiny_trainer(world, phases=phases, seed=seed, memory=memory)


def finished(trainer: PhaseRunner) -> PhaseRunner:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "CHUNK_STEPS", CHUNK)
        trainer.progress = list(trainer.steps())
    return trainer


@pytest.fixture(scope="module")
def undisturbed(world) -> PhaseRunner:
    return finished(made(world))


@pytest.fixture(scope="module")
def label_free(world) -> PhaseRunner:
    return finished(made(world, phases=LABEL_FREE))


def test_positions_count_every_step_of_every_phase(undisturbed):
    places = [(p.position.phase, p.position.step, p.num_steps) for p in undisturbed.progress]
    assert places == [(phase, i + 1, NUM_STEPS[phase]) for phase in PHASE_NAMES for i in range(NUM_STEPS[phase])]
    assert undisturbed.position == Position("refine", 2)
    assert list(undisturbed.steps()) == []


def test_metrics_are_finite_and_say_what_was_done(undisturbed):
    by_phase = {phase: [p.metrics for p in undisturbed.progress if p.position.phase == phase] for phase in PHASE_NAMES}
    # The SLMs report at the ends of chunks, and the BLM for as long as it learns.
    assert ["slm_loss" in metrics for metrics in by_phase["pretrain"]] == [False, True, False, True, True]
    assert ["loss" in metrics for metrics in by_phase["pretrain"]] == [True, True, True, False, False]
    assert all({"loss", "lr", "temperature", "hit_top1", "exact_mask", "reads"} <= m.keys() for m in by_phase["joint"])
    assert all({"loss", "gain", "lr"} <= metrics.keys() for metrics in by_phase["refine"])
    values = [value for p in undisturbed.progress for value in p.metrics.values()]
    assert torch.tensor(values).isfinite().all()


@pytest.mark.parametrize("cut", [0, 1, 2, 4, 5, 6, 7, 8, 9, 10])
def test_a_run_cut_anywhere_and_taken_up_again_equals_the_undisturbed_one(world, undisturbed, cut):
    check_taken_up_again(world, SHORT, undisturbed, cut)


@pytest.mark.parametrize("cut", [1, 2, 4, 5, 7])
def test_a_run_without_labels_can_be_cut_too(world, label_free, cut):
    check_taken_up_again(world, LABEL_FREE, label_free, cut)


def check_taken_up_again(world: World, phases: PhasesConfig, undisturbed: PhaseRunner, cut: int) -> None:
    first = made(world, phases=phases)
    done = list(islice(first.steps(), cut))
    position, learner, fleet = first.position, first.train_state.state(), first.train_state.fleet.state()
    # Within a chunk of pre-training all of it is done already.
    assert done == [] or position.step >= done[-1].position.step
    second = made(world, phases=phases)
    second.train_state.load_state(learner)
    second.train_state.fleet.load_state(fleet)
    second.position = position
    rest = list(second.steps())
    assert len(rest) == len(undisturbed.progress) - sum(NUM_STEPS[p] for p in _before(position.phase)) - position.step
    assert [p.metrics for p in rest] == [
        p.metrics for p in undisturbed.progress[len(undisturbed.progress) - len(rest) :]
    ]
    assert same_state(state_of(second), state_of(undisturbed))


class Lying:
    """A world whose batches name the addresses of other samples, as if no input told them, or none at all."""

    def __init__(self, world: World, silent: bool) -> None:
        self.world, self.spec, self.silent = world, world.spec, silent
        self.keys = world.keys

    def batch(self, split, batch_size, generator) -> Batch:
        batch = self.world.batch(split, batch_size, generator)
        labels = batch.labels.map(lambda tensor: tensor * 0 if self.silent else tensor.flip(0))
        return replace(batch, labels=labels, keyed=~batch.keyed)


@pytest.mark.parametrize("silent", [False, True])
def test_without_labels_no_phase_learns_from_what_batches_say_of_addresses(world, undisturbed, label_free, silent):
    lying, memory = Lying(world, silent), filled(world)
    assert same_state(state_of(finished(made(lying, phases=LABEL_FREE, memory=memory))), state_of(label_free))
    # With labels it would.
    assert not same_state(state_of(finished(made(lying, memory=memory))), state_of(undisturbed))


def test_without_labels_slms_and_blm_learn_all_the_same(world, label_free):
    before, after = state_of(made(world, phases=LABEL_FREE)), state_of(label_free)
    for part in ("model.pooling.query.weight", "model.tags.rule", "slm.0.model.digits.rule", "slm.2.model.digits.bit"):
        assert not [name for name in before if name.startswith(part) and torch.equal(before[name], after[name])], part


def _before(phase: str) -> tuple[str, ...]:
    return PHASE_NAMES[: PHASE_NAMES.index(phase)]


def test_same_seed_same_bits_and_another_seed_others(world, undisturbed):
    again, other = made(world), made(world, seed=1)
    for trainer in (again, other):
        trainer.progress = list(trainer.steps())
    assert same_state(state_of(again), state_of(undisturbed))
    assert again.progress == undisturbed.progress
    different = state_of(other)
    same = [name for name, tensor in state_of(again).items() if torch.equal(tensor, different[name])]
    trained = ("model.blocks", "model.change", "digits.bit.weight", "length.2.weight")
    assert not [name for name in same if any(part in name for part in trained) and ".step." not in name]


def test_the_global_generators_neither_matter_nor_move(world, undisturbed):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    trainer = made(world)
    list(trainer.steps())
    assert torch.equal(before, torch.get_rng_state())
    assert same_state(state_of(trainer), state_of(undisturbed))


def test_phases_of_no_steps_are_passed_over(world):
    phases = replace(
        PHASES,
        pretrain=replace(PHASES.pretrain, steps=0, slm_steps=0),
        joint=replace(PHASES.joint, steps=1),
        refine=replace(PHASES.refine, steps=0),
    )
    trainer = tiny_trainer(world, phases=phases)
    assert [p.position for p in trainer.steps()] == [Position("joint", 1)]
    assert trainer.position == Position("refine", 0)


@pytest.mark.parametrize(("steps", "slm_steps"), [(0, 3), (3, 0)])
def test_either_half_of_pretraining_can_be_left_out(world, steps, slm_steps):
    pretrain = replace(PHASES.pretrain, steps=steps, slm_steps=slm_steps)
    trainer = tiny_trainer(world, phases=replace(PHASES, pretrain=pretrain))
    before = trainer.train_state.state(), trainer.train_state.fleet.state()
    assert len(list(islice(trainer.steps(), 3))) == 3
    unchanged = [
        all(torch.equal(tensor, now[name]) for name, tensor in was.items())
        for was, now in zip(before, (trainer.train_state.state(), trainer.train_state.fleet.state()), strict=True)
    ]
    assert unchanged == [steps == 0, slm_steps == 0]


@pytest.mark.parametrize(("phase", "step"), [("pretrian", 0), ("joint", -1), ("", 3)])
def test_places_that_do_not_exist_are_refused(phase, step):
    with pytest.raises(CheckpointError, match="is no place in pretrain, joint, refine"):
        Position(phase, step)


def test_means_over_slms():
    assert mean_metrics([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}]) == {"a": 2.0, "b": 2.0}
    assert mean_metrics([]) == mean_metrics([{}, {}]) == {}


def test_the_fleet_is_told_what_the_settings_say():
    config = fleet_config(MODEL, PhasesConfig(), 5)
    pretrain = PhasesConfig().pretrain
    assert (config.seed, config.num_slms, config.query_dim) == (5, MODEL.num_slms, MODEL.blm.query_dim)
    assert (config.pretrain_steps, config.pretrain_batch) == (pretrain.slm_steps, pretrain.slm_batch)
    assert (config.pretrain_lr, config.warmup_steps) == (pretrain.slm_lr, pretrain.warmup_steps)
