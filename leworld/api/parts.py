"""ModelParts: a model as plain values and tensors, from which a system is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from leworld.errors import CheckpointError
from leworld.memory import Reader, Snapshot
from leworld.models.fleet import FleetConfig, SLMHost
from leworld.models.membership import set_asking
from leworld.models.system import ModelConfig, System, build_blm
from leworld.worlds.base import WorldSpec
from leworld.worlds.transition_format import TransitionFormat


@dataclass(frozen=True)
class ModelParts:
    """A model before it is built.

    Attributes:
        config: sizes.
        spec: of the world.
        format: how its transitions become words; None if memory holds something else.
        slm_ids: numbers of the SLMs.
        asking: (1 + N,), see ``leworld.models.membership.asking``.
        blm: weights by name.
        slms: weights by ``ID.NAME``.
        memory: every written page.
        trained_to: phase and step of the training.
    """

    config: ModelConfig
    spec: WorldSpec
    format: TransitionFormat | None
    slm_ids: Sequence[int]
    asking: Tensor
    blm: Mapping[str, Tensor]
    slms: Mapping[str, Tensor]
    memory: Snapshot
    trained_to: Mapping[str, Any]

    def with_memory(self, memory: Snapshot) -> ModelParts:
        """The same parts with another memory."""
        return replace(self, memory=memory)

    def build(self, memory: Reader, device: str) -> System:
        """A system that reads a memory.

        Raises:
            CheckpointError: a weight is missing, unknown or of another shape.
        """
        config = replace(self.config, num_slms=len(self.slm_ids), shortlist_size=None)
        blm = build_blm(config, self.spec, 0)
        load_weights("the BLM", blm, self.blm)
        set_asking(blm, self.asking)
        # The loaded weights replace the first ones, which the seed gives.
        fleet = FleetConfig(config.slm, config.num_slms, config.blm.query_dim, seed=0)
        host = SLMHost(fleet, self.spec, self.slm_ids, device)
        for slm_id, slm in zip(self.slm_ids, host.slms, strict=True):
            prefix = f"{slm_id}."
            own = {name.removeprefix(prefix): x for name, x in self.slms.items() if name.startswith(prefix)}
            load_weights(f"SLM {slm_id}", slm, own)
        return System(blm.to(device).eval(), host, memory, self.spec, device)


def load_weights(owner: str, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module its weights.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    own = dict(module.named_parameters())
    for name in sorted(own.keys() ^ weights.keys()):
        raise CheckpointError(f"{owner} {'lacks' if name in own else 'has the unknown'} weight {name}: export it again")
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                raise CheckpointError(
                    f"weight {name} of {owner} has shape {tuple(weights[name].shape)}, not {tuple(parameter.shape)}: "
                    "export it again"
                )
            parameter.copy_(weights[name])
