"""Every setting is live: a changed one changes the weights that come out of training, or the gate's result.

A field without a case here fails.
"""

from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch

from leworld.evaluation.gate import EvaluationConfig, GateRun
from leworld.models.blm import BLMConfig
from leworld.models.slm import SLMConfig
from leworld.models.system import ModelConfig
from leworld.training.joint import JointConfig
from leworld.training.phase_runner import PhasesConfig
from leworld.training.pretrain import PretrainConfig
from leworld.training.refine import RefineConfig
from leworld.worlds import World
from tests.models.tiny import PHASES, same_state, state_of, tiny_trainer, tiny_world

MODEL = ModelConfig(
    slm=SLMConfig(d_model=16, num_heads=2, num_layers=1, candidates=3),
    blm=BLMConfig(d_model=16, num_heads=2, num_layers=1, read_dim=16, read_heads=2, query_dim=8, request_price=-1.0),
    num_slms=2,
)
BASE = PhasesConfig(
    pretrain=replace(PHASES.pretrain, steps=2, slm_steps=2, warmup_steps=1),
    joint=replace(PHASES.joint, steps=2, warmup_steps=1),
    refine=replace(PHASES.refine, steps=2, warmup_steps=1),
    rehearsal=8,
)
EVALUATION = EvaluationConfig(sequences=4, baseline_steps=2, baseline_sequences=2)

CASES: dict[type, dict[str, Any]] = {
    PretrainConfig: {
        "steps": 3, "sequences": 9, "samples": 11, "lr": 3e-3, "warmup_steps": 5, "irrelevant": 0.9, "dropped": 0.9,
        "blind": 0.9, "cut": 0.9, "forgotten": 1.0, "temperature": 3.0, "verify_weight": 0.9, "codec_weight": 0.9,
        "ask_weight": 0.9, "slm_steps": 3, "slm_batch": 17, "rule_steps": 3, "rule_batch": 33, "slm_lr": 3e-3,
        "length_weight": 2.0, "confidence_weight": 2.0, "subset_weight": 9.0,
    },
    JointConfig: {
        "steps": 3, "sequences": 9, "samples": 11, "lr": 3e-3, "slm_lr": 3e-3, "warmup_steps": 5, "irrelevant": 0.9,
        "dropped": 0.9, "blind": 0.9, "cut": 0.9, "forgotten": 1.0, "scored": 1.0, "verify_weight": 0.9,
        "credit_weight": 2.0, "credit_temperature": 2.0, "label_weight": 2.0, "mask_weight": 2.0, "read_price": 5.0,
        "balance_weight": 1.0, "entropy_weight": 1.0, "temperature": 3.0, "temperature_end": 0.5,
        "shortlist_weight": 9.0, "subset_weight": 9.0,
    },
    RefineConfig: {
        "steps": 3, "sequences": 5, "horizon": 2, "lr": 3e-3, "slm_lr": 3e-3, "warmup_steps": 5, "irrelevant": 0.9,
        "guided": 1.0, "request_weight": 3.0, "label_weight": 2.0, "tag_weight": 3.0, "verify_weight": 0.9,
        "mask_weight": 2.0, "read_price": 5.0,
    },
    PhasesConfig: {
        "pretrain": replace(BASE.pretrain, steps=3),
        "joint": replace(BASE.joint, steps=3),
        "refine": replace(BASE.refine, steps=3),
        "labels": False,
        "rehearsal": 0,
        "weight_decay": 0.5,
        "grad_clip": 1e-3,
    },
    SLMConfig: {"d_model": 32, "num_heads": 4, "num_layers": 2, "candidates": 2},
    BLMConfig: {
        "d_model": 32, "num_heads": 4, "num_layers": 2, "read_dim": 32, "read_heads": 4, "query_dim": 4,
        "request_price": 1e3, "fit_features": 5, "fit_dim": 8,
    },
    ModelConfig: {
        "slm": replace(MODEL.slm, num_layers=2),
        "blm": replace(MODEL.blm, num_layers=2),
        "num_slms": 3,
        "shortlist_size": 1,
    },
    EvaluationConfig: {"sequences": 5, "baseline_steps": 3, "baseline_sequences": 3, "baseline_lr": 0.1},
}  # fmt: skip
SETTINGS = {
    "rules": {"difficulty": "medium"},
    # Reads of several records can be cut, and their transitions are a regression's.
    "physics": {"records": 6, "names": 1},
    # There steps depend on requests.
    "pointers": {},
}
WORLD_OF = {
    "cut": "physics", "forgotten": "physics", "fit_features": "physics", "fit_dim": "physics", "ask_weight": "pointers",
}  # fmt: skip
# These teach whom to ask, where not all are.
FEW_ASKED = ("shortlist_weight", "subset_weight")
PHASE_OF = {PretrainConfig: "pretrain", JointConfig: "joint", RefineConfig: "refine"}


def cases(*owners: type) -> list[Any]:
    return [pytest.param(o, f.name, id=f"{o.__name__}.{f.name}") for o in owners for f in fields(o)]


@cache
def world(name: str = "rules", num_tables: int = 2) -> World:
    return tiny_world(name, num_tables=num_tables, **SETTINGS[name])


def only(phases: PhasesConfig, name: str) -> PhasesConfig:
    """The settings with the steps of one phase alone."""
    for other in {"pretrain", "joint", "refine"} - {name}:
        none = {"steps": 0, "slm_steps": 0} if other == "pretrain" else {"steps": 0}
        phases = replace(phases, **{other: replace(getattr(phases, other), **none)})
    return phases


@cache
def trained(model: ModelConfig, phases: PhasesConfig, used: str = "rules") -> dict[str, torch.Tensor]:
    """The weights alone: a setting that only shows in a metric is not live."""
    trainer = tiny_trainer(world(used, model.num_slms), model, phases, stirred=True)
    list(trainer.steps())
    return {name: tensor for name, tensor in state_of(trainer).items() if "adam." not in name}


def different(owner: type, name: str, before: Any) -> Any:
    value = CASES[owner][name]
    assert value != getattr(before, name), "a case must change the setting"
    return replace(before, **{name: value})


@pytest.mark.parametrize(("owner", "name"), cases(PretrainConfig, JointConfig, RefineConfig))
def test_settings_of_a_phase_change_what_it_teaches(owner, name):
    phase, used = PHASE_OF[owner], WORLD_OF.get(name, "rules")
    changed = replace(BASE, **{phase: different(owner, name, getattr(BASE, phase))})
    model = replace(MODEL, shortlist_size=1) if name in FEW_ASKED else MODEL
    first, second = (trained(model, only(phases, phase), used) for phases in (BASE, changed))
    assert not same_state(first, second)


@pytest.mark.parametrize(("owner", "name"), cases(PhasesConfig))
def test_settings_of_all_phases_change_what_they_teach(owner, name):
    # Refining cannot do without labels.
    before = replace(BASE, refine=replace(BASE.refine, steps=0)) if name == "labels" else BASE
    assert not same_state(trained(MODEL, different(owner, name, before)), trained(MODEL, before))


SIZES = [case for case in cases(SLMConfig, BLMConfig, ModelConfig) if case.values[1] != "request_price"]


@pytest.mark.parametrize(("owner", "name"), SIZES)
def test_sizes_change_the_model(owner, name):
    before = {SLMConfig: MODEL.slm, BLMConfig: MODEL.blm, ModelConfig: MODEL}[owner]
    after = different(owner, name, before)
    part = {SLMConfig: "slm", BLMConfig: "blm"}.get(owner)
    model = after if part is None else replace(MODEL, **{part: after})
    used = WORLD_OF.get(name, "rules")
    first, second = (trained(sized, only(BASE, "joint"), used) for sized in (MODEL, model))
    assert not same_state(first, second)


def gate(config: EvaluationConfig, model: ModelConfig = MODEL) -> dict[str, Any]:
    run = GateRun(world(), tiny_trainer(world(), model, stirred=True).train_state.system, config, 0)
    list(run.stages())
    return {name: value for name, value in run.result.items() if name not in ("budget", "samples")}


@cache
def base_gate() -> dict[str, Any]:
    return gate(EVALUATION)


@pytest.mark.parametrize(("owner", "name"), cases(EvaluationConfig))
def test_settings_of_the_gate_change_its_figures(owner, name):
    assert gate(different(owner, name, EVALUATION)) != base_gate()


def test_the_price_of_a_request_changes_what_is_asked():
    dear = replace(MODEL, blm=different(BLMConfig, "request_price", MODEL.blm))
    silent = gate(EVALUATION, dear)
    assert silent["info_gain"]["mean"] == 0
    assert silent["info_gain"] != base_gate()["info_gain"]


def test_the_same_settings_change_nothing():
    phases = only(BASE, "joint")
    assert same_state(trained.__wrapped__(MODEL, phases), trained(MODEL, phases))
    assert gate(EVALUATION) == base_gate()


def test_no_case_is_left_of_a_field_that_is_gone():
    for owner, values in CASES.items():
        assert is_dataclass(owner)
        assert set(values) == {field.name for field in fields(owner)}, owner.__name__
