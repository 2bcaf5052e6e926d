"""Nothing is dead: every weight of every part is taught in some phase, from the first weights on."""

from dataclasses import replace

import torch

from leworld.optim import Optimizer
from tests.models.tiny import PHASES, tiny_trainer, tiny_world

STEPS = 4


ASKING = ("blm.ask.", "blm.ask_notes", "blm.norm_notes", "blm.norm_ask", "blm.tags.request")
HEARING = ("blm.info_query.weight", "slm.0.info_query.weight", "slm.0.digits.request")


def gradients_by_phase(world, monkeypatch) -> dict[str, dict[str, torch.Tensor]]:
    """For each phase and weight, where a gradient that is not zero ever came."""
    phases = replace(
        PHASES,
        pretrain=replace(PHASES.pretrain, steps=STEPS, slm_steps=STEPS),
        joint=replace(PHASES.joint, steps=STEPS),
        refine=replace(PHASES.refine, steps=STEPS),
        rehearsal=0,
    )
    trainer = tiny_trainer(world, phases=phases)
    owners = {id(trainer.train_state.optimizer): "blm."}
    owners |= {id(optimizer): f"slm.{i}." for i, optimizer in enumerate(trainer.train_state.fleet.optimizers)}
    found: dict[str, dict[str, torch.Tensor]] = {"pretrain": {}, "joint": {}, "refine": {}}
    plain_step, now = Optimizer.step, ["pretrain"]

    def step(self: Optimizer, lr: float) -> float:
        for name, weight in self.names.items():
            reached = torch.zeros_like(weight, dtype=torch.bool) if weight.grad is None else weight.grad != 0
            key = owners[id(self)] + name
            found[now[0]][key] = found[now[0]].get(key, torch.zeros_like(reached)) | reached
        return plain_step(self, lr)

    monkeypatch.setattr(Optimizer, "step", step)
    for progress in trainer.steps():
        if progress.position.step == progress.num_steps:
            now[0] = {"pretrain": "joint", "joint": "refine", "refine": "refine"}[progress.position.phase]
    return found


def test_every_parameter_receives_a_gradient_in_some_phase(monkeypatch):
    found = gradients_by_phase(tiny_world("physics"), monkeypatch)
    names = set(found["pretrain"]) | set(found["joint"])
    assert {name.split(".")[0] for name in names} == {"blm", "slm"}
    ever = {name: sum((found[phase].get(name, torch.tensor(False)) for phase in found), start=False) for name in names}
    assert [name for name, reached in ever.items() if not reached.any()] == []
    # Tensor by tensor is not enough: whole rows can be dead.
    alive = sum(int(reached.sum()) for reached in ever.values())
    assert alive / sum(reached.numel() for reached in ever.values()) > 0.99


def test_each_phase_teaches_its_own_parts(monkeypatch):
    found = gradients_by_phase(tiny_world("physics"), monkeypatch)

    def taught(phase: str, prefix: str) -> bool:
        return any(bool(reached.any()) for name, reached in found[phase].items() if name.startswith(prefix))

    # Before joint training the router has the state alone to go by, and the rules have none but the keys.
    for prefix in ("blm.router.hidden", "blm.router.trust", "blm.slm_hidden", "blm.trust"):
        assert not taught("pretrain", prefix), prefix
    for prefix in ("blm.router.state", "blm.router.key", "blm.router.score", "blm.tags.rule", "slm.0.digits.rule"):
        assert taught("pretrain", prefix), prefix
    for phase in ("joint", "refine"):
        for prefix in ("blm.tags.rule", "slm.0.digits.rule", "slm.2.digits.rule"):
            assert not taught(phase, prefix), (phase, prefix)
    for phase in ("joint", "refine"):
        assert taught(phase, "blm.router.key")
        assert taught(phase, "slm.1.digits")
        assert taught(phase, "blm.slm_hidden.weight")
    for prefix in ("blm.codec.decoder", "blm.records", "blm.records.fields", "blm.records.notes", "blm.pooling.vouch",
                   "blm.drift", "blm.told", "blm.regression.curved", "blm.regression.body", "blm.regression.prior",
                   "blm.regression.spread", "blm.regression.noise", "slm.2.confidence", "slm.2.length",
                   "slm.0.digits.bit", "slm.0.digits.heed"):  # fmt: skip
        assert taught("pretrain", prefix), prefix
    for prefix in (*ASKING, "blm.worth", *HEARING):
        assert not taught("pretrain", prefix), prefix
        assert not taught("joint", prefix), prefix
        assert taught("refine", prefix), prefix


def test_a_request_learns_to_name_tags_before_anybody_hears_it_where_it_is_needed(monkeypatch):
    taught = gradients_by_phase(tiny_world("pointers"), monkeypatch)["pretrain"]
    for prefixes, expected in ((ASKING, True), (("blm.worth", *HEARING), False)):
        for prefix in prefixes:
            reached = [bool(found.any()) for name, found in taught.items() if name.startswith(prefix)]
            assert any(reached) == expected, prefix
