"""Membership: a BLM gains or loses its parameters for an SLM while it trains.

Parameters stay the same objects, so that the optimiser continues; its moments gain zeros, or lose the part of the SLM
that left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leworld.models.blm import BLM
from leworld.optim import MOMENTS, Optimizer

PROBATION_STEPS = 20
"""Predictions ask an SLM that joined after this many steps; training asks it at once, by noise."""


def tables_of(members: Sequence[int], num_tables: int) -> Tensor | None:
    """(N,) the table of each SLM; None: SLM n has table n."""
    if list(members) == list(range(num_tables)):
        return None
    return torch.tensor([slm_id % num_tables for slm_id in members])


def own_parts(blm: BLM) -> dict[str, tuple[int, int]]:
    """The parameters with a part for each SLM: its axis and its width."""
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
    """(1 + N,) int64: the shortlist's size, -1 for all, and each SLM's remaining steps on probation."""
    return torch.tensor([-1 if blm.shortlist_size is None else blm.shortlist_size, *blm.probation])


def set_asking(blm: BLM, given: Tensor) -> None:
    """Inverse of ``asking``."""
    number, *probation = given.tolist()
    assert len(probation) == blm.num_slms, (probation, blm.num_slms)
    blm.shortlist_size, blm.probation = None if number < 0 else number, probation


def join(blm: BLM, optimizer: Optimizer, like: int, generator: torch.Generator) -> None:
    """Add an SLM in the last place.

    The shortlist keeps its size and leaves the SLM out for ``PROBATION_STEPS`` training steps. So predictions change
    only by rounding, if all SLMs were asked. The SLM's reads are treated like those of ``like``; its key is its own.

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
    """Remove the SLM at a place; those after it move up."""
    for name, (axis, width) in own_parts(blm).items():
        size = blm.get_parameter(name).shape[axis]
        kept = torch.tensor([i for i in range(size) if not place * width <= i < (place + 1) * width])
        _change(optimizer, name, [lambda x, kept=kept, axis=axis: x.index_select(axis, kept.to(x.device))] * 2)
    _set_number(blm, blm.probation[:place] + blm.probation[place + 1 :])


def _change(optimizer: Optimizer, name: str, changes: Sequence[Callable[[Tensor], Tensor]]) -> None:
    """Change a parameter by the first function, and its moments by the second."""
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
