"""Numbers that no phase could work with are refused, each in one line with its name."""

from dataclasses import fields
from math import inf, nan

import pytest

from leworld.errors import ConfigError
from leworld.training.joint import JointConfig
from leworld.training.phase_runner import PhasesConfig
from leworld.training.pretrain import PretrainConfig
from leworld.training.refine import RefineConfig

OWNERS = {
    PretrainConfig: "phases.pretrain",
    JointConfig: "phases.joint",
    RefineConfig: "phases.refine",
    PhasesConfig: "phases",
}
NUMBERS = [(owner, field.name) for owner in OWNERS for field in fields(owner) if type(field.default) in (int, float)]
MAY_BE_0 = {
    "steps", "slm_steps", "rehearsal", "irrelevant", "dropped", "blind", "cut", "forgotten", "scored", "guided",
    "read_price",
}  # fmt: skip


def may_be_0(name: str) -> bool:
    return name in MAY_BE_0 or name.endswith(("_weight", "weight_decay"))


@pytest.mark.parametrize("value", [-1, -1e-9, nan, inf, -inf])
@pytest.mark.parametrize(("owner", "name"), NUMBERS)
def test_no_number_may_be_negative_or_not_finite(owner, name: str, value: float):
    with pytest.raises(ConfigError) as caught:
        owner(**{name: value})
    assert f"{OWNERS[owner]}.{name} {value} is" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("owner", "name"), NUMBERS)
def test_0_leaves_out_what_can_be_left_out_and_nothing_else(owner, name: str):
    if may_be_0(name):
        assert getattr(owner(**{name: 0}), name) == 0
    else:
        with pytest.raises(ConfigError, match=f"{name} 0 is not above 0"):
            owner(**{name: 0})


def test_refining_needs_labels_and_says_how_to_go_without():
    with pytest.raises(ConfigError) as caught:
        PhasesConfig(labels=False)
    steps = RefineConfig().steps
    assert f"phases.labels false with {steps} steps" in str(caught.value)
    assert "phases.refine.steps=0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not PhasesConfig(labels=False, refine=RefineConfig(steps=0)).labels
