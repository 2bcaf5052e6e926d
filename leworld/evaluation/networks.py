"""Baselines that learn by gradient and have no memory: an MLP, an MLP told the truth, and a GRU.

Shapes: see ``leworld.types``; F: features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leworld.errors import ConfigError
from leworld.evaluation.metrics import errors
from leworld.evaluation.predictor import Budget, Features, Output, training_batches
from leworld.rng import generator
from leworld.types import Batch
from leworld.worlds.base import World

_MLP_WIDTH, _MLP_LAYERS = 256, 3
_GRU_WIDTH = 128
_WARM_UP_SHARE = 0.05
_CLIP_NORM = 1.0


class _History(nn.Module):
    """A GRU over the whole episode so far, and a linear head."""

    def __init__(self, num_features: int, target_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(num_features, _GRU_WIDTH, batch_first=True)
        self.head = nn.Linear(_GRU_WIDTH, target_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, F) to (B, T, Y)."""
        return self.head(self.gru(features)[0])


def _mlp(num_features: int, target_dim: int) -> nn.Module:
    layers: list[nn.Module] = []
    for layer in range(_MLP_LAYERS):
        layers += [nn.Linear(_MLP_WIDTH if layer else num_features, _MLP_WIDTH), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(_MLP_WIDTH, target_dim))


@dataclass(frozen=True)
class Network:
    """A trained network over the standardised features of every step."""

    features: Features
    output: Output
    module: nn.Module

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y)."""
        return self.output.prediction(batch.current, self.module(self.features(batch)))


def fit_mlp(world: World, budget: Budget) -> Network:
    """Train an MLP of three layers of 256 on past, current and characteristics."""
    return _fit(world, budget, _mlp, with_context=False)


def fit_oracle(world: World, budget: Budget) -> Network:
    """Train the same MLP, told ``Batch.context`` too.

    Raises:
        ConfigError: the world has no context.
    """
    if world.spec.context_dim == 0:
        raise ConfigError(f"world {world.spec.name} knows no context to tell; leave the baseline oracle out")
    return _fit(world, budget, _mlp, with_context=True)


def fit_gru(world: World, budget: Budget) -> Network:
    """Train a GRU of 128 on the episode so far."""
    return _fit(world, budget, _History, with_context=False)


def _fit(world: World, budget: Budget, build: Callable[[int, int], nn.Module], with_context: bool) -> Network:
    """Train with AdamW, a warm-up and a cosine down to zero."""
    features, output = Features.fit(world, budget, with_context), Output.of(world.spec)
    # Built without storage, because torch fills new layers from the global generator.
    with torch.device("meta"):
        module = build(features.size, world.spec.target_dim)
    module = module.to_empty(device="cpu")
    _initialise(module, generator(budget.seed, "baselines", "weights"))
    optimiser = torch.optim.AdamW(module.parameters(), lr=budget.lr, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _lr_factor(step, budget.steps))
    for batch in training_batches(world, budget):
        prediction = output.prediction(batch.current, module(features(batch)))
        optimiser.zero_grad()
        errors(prediction, batch.target, world.spec.scale).mean().backward()
        nn.utils.clip_grad_norm_(module.parameters(), _CLIP_NORM)
        optimiser.step()
        schedule.step()
    return Network(features, output, module.eval())


def _initialise(module: nn.Module, random: torch.Generator) -> None:
    """Fill every layer within ``1 / sqrt(fan in)``, as torch does."""
    with torch.no_grad():
        for layer in module.modules():
            fan_in = layer.in_features if isinstance(layer, nn.Linear) else _GRU_WIDTH
            for parameter in layer.parameters(recurse=False):
                parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=random)


def _lr_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step."""
    warm_up = max(1, round(_WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
