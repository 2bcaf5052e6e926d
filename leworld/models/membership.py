"""Membership: a BLM gains or loses what it has of its own for each SLM, while it trains.

Parameters stay the same objects, so that an optimiser goes on with them; its moments gain zeros, or lose what they held
of the SLM that left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leworld.models.blm import BLM
from leworld.optim import MOMENTS, Optimizer

PROBATION_STEPS = 20
"""Training asks an SLM that joined at once, by its noise; predictions do not before so many steps."""


def tables_of(members: Sequence[int], num_tables: int) -> Tensor | None:
    """(N,) the memory's table of each SLM; None where each has that of its own number."""
    if list(members) == list(range(num_tables)):
        return None
    return torch.tensor([slm_id % num_tables for slm_id in members])


def own_parts(blm: BLM) -> dict[str, tuple[int, int]]:
    """The parameters that have a part for each SLM: along which axis, and how wide."""
    width = blm.config.read_dim
    parts: dict[str, tuple[int, int]] = dict.fromkeys(
        ("router.key", "router.key_scale", "pooling.slot", "pooling.slot_scale"), (0, 1)
    )
    parts |= {"slot": (1, 1), "told.weight": (1, width), "ask_notes.weight": (1, width)}
    if blm.tags is not None:
        bits = blm.tags.shape[1]
        parts |= dict.fromkeys(("tags.rule.linear.weight", "tags.rule.linear.bias", "tags.request.weight"), (0, bits))
        parts["tags.heed"] = (0, 1)
    return parts


def asking(blm: BLM) -> Tensor:
    """(1 + N,) int64: how many SLMs are asked, -1 for all, and of each the steps that it stays on probation."""
    return torch.tensor([-1 if blm.shortlist_size is None else blm.shortlist_size, *blm.probation])


def set_asking(blm: BLM, given: Tensor) -> None:
    """Inverse of ``asking``."""
    number, *probation = given.tolist()
    assert len(probation) == blm.num_slms, (probation, blm.num_slms)
    blm.shortlist_size, blm.probation = None if number < 0 else number, probation


def join(blm: BLM, optimizer: Optimizer, like: int, generator: torch.Generator) -> None:
    """Gain an SLM, the last.

    As many are asked as before, and it is not among them for ``PROBATION_STEPS`` steps of training: so no prediction
    changes now, but for the rounding of another order of sums where all had been asked. It is read as ``like`` is, with
    a key of its own.

    Args:
        blm: the model.
        optimizer: of it.
        like: an SLM, of the same table if there is one.
        generator: of its key.
    """
    blm.shortlist_size = blm.num_slms if blm.shortlist_size is None else blm.shortlist_size
    for name, (axis, width) in own_parts(blm).items():
        parameter = blm.get_parameter(name)
        new = parameter.detach().narrow(axis, like * width, width).clone()
        if name == "router.key":
            new = (0.02 * torch.randn(new.shape, generator=generator)).to(new.device)
        if name == "router.key_scale":
            new = (1 + 0.5 * torch.randn(new.shape, generator=generator)).to(new.device)
        _change(optimizer, name, [lambda x, new=part, axis=axis: torch.cat([x, new], axis) for part in (new, 0 * new)])
    _set_number(blm, [*blm.probation, PROBATION_STEPS])


def leave(blm: BLM, optimizer: Optimizer, place: int) -> None:
    """Lose the SLM at a place; those after it move up."""
    for name, (axis, width) in own_parts(blm).items():
        size = blm.get_parameter(name).shape[axis]
        kept = torch.tensor([i for i in range(size) if not place * width <= i < (place + 1) * width])
        _change(optimizer, name, [lambda x, kept=kept, axis=axis: x.index_select(axis, kept.to(x.device))] * 2)
    _set_number(blm, blm.probation[:place] + blm.probation[place + 1 :])


def _change(optimizer: Optimizer, name: str, changes: Sequence[Callable[[Tensor], Tensor]]) -> None:
    """Change a parameter by the first, and its moments by the second."""
    parameter = optimizer.names[name]
    state = optimizer.adam.state.get(parameter, {})
    for moment in (moment for moment in MOMENTS if moment in state):
        state[moment] = changes[1](state[moment])
    parameter.grad = None
    parameter.data = changes[0](parameter.detach())


def _set_number(blm: BLM, probation: list[int]) -> None:
    blm.probation, blm.num_slms = probation, len(probation)
    if blm.tags is not None:
        blm.tags.shape = (len(probation), blm.tags.shape[1])
