"""A baseline with the memory's transitions as context: a GRU runs over them, then over the episode.

Source: Duan et al. 2016, RL^2, https://arxiv.org/abs/1611.02779 ; here the world's stored transitions come first.

Shapes: see ``leworld.types``; M: stored transitions of a world.  F: features of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.evaluation.network_baselines import Network, SequenceHistory, fit_network
from leworld.evaluation.predictor import STATES, Budget, Features, Output, stored_of, valid_batch
from leworld.types import Batch
from leworld.worlds.base import World


@dataclass(frozen=True)
class ContextFeatures:
    """The stored transitions of a sequence's world as rows, and then its own steps.

    A row is [past, state, change, flag]: a stored transition has no past, its change in the units of ``Output`` and the
    flag 1; a step has no change and the flag 0. The records replace the characteristics.
    """

    world: World
    steps: Features
    output: Output

    @staticmethod
    def fit(world: World, budget: Budget) -> ContextFeatures:
        """Take the units of the states from the first training batches."""
        return ContextFeatures(world, Features.fit(world, budget, STATES), Output.of(world.spec))

    def __call__(self, batch: Batch) -> Tensor:
        """(B, M + T, F).

        Raises:
            ConfigError: the world stores no transitions.
        """
        stored, index = stored_of(self.world, batch, "gru_context")
        own = index[:, 0]
        steps = self.steps(batch)
        states = slice(self.world.spec.state_dim, 2 * self.world.spec.state_dim)
        inputs = ((stored.inputs - self.steps.mean[states]) / self.steps.std[states])[own]
        change = self.output.wanted(stored.inputs, stored.targets)[own]
        seen = torch.cat([torch.zeros_like(inputs), inputs, change, torch.ones_like(change[..., :1])], -1)
        asked = torch.cat([steps, steps.new_zeros(*batch.shape, change.shape[-1] + 1)], -1)
        return torch.cat([seen, asked], 1)

    @property
    def size(self) -> int:
        """F."""
        return self.steps.size + self.world.spec.target_dim + 1


def fit_gru_context(world: World, budget: Budget) -> Network:
    """Train a GRU on the stored transitions followed by the episode so far.

    Raises:
        ConfigError: the world stores no transitions.
    """
    features = ContextFeatures.fit(world, budget)
    num_stored = stored_of(world, valid_batch(world, budget), "gru_context")[0].inputs.shape[1]
    return fit_network(
        world, budget, features, lambda: SequenceHistory(features.size, world.spec.target_dim, num_stored)
    )
