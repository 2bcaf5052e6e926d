"""Baselines that learn by gradient and have no memory: an MLP, an MLP told the truth, and a GRU.

A short training with and without the characteristics chooses on the valid split whether they are inputs: networks
memorise a code that only names the world.

Shapes: see ``leworld.types``; F: features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leworld.errors import ConfigError
from leworld.evaluation.metrics import errors, mse
from leworld.evaluation.predictor import INPUTS, STATES, Budget, Features, Output, training_batches, valid_batch
from leworld.rng import generator
from leworld.types import Batch
from leworld.worlds.base import World

_WIDTH, _MLP_LAYERS, _HEAD_LAYERS = 256, 3, 2
_GRU_WIDTH = 128
_PROBE_SHARE = 5
"""A training that only chooses inputs takes a fifth of the steps."""
_WARM_UP_SHARE = 0.05
_CLIP_NORM = 1.0


class SequenceHistory(nn.Module):
    """A GRU over all rows and an MLP on its state and the row; the first ``skipped`` rows have no output."""

    def __init__(self, num_features: int, target_dim: int, skipped: int = 0) -> None:
        super().__init__()
        self.skipped = skipped
        self.gru = nn.GRU(num_features, _GRU_WIDTH, batch_first=True)
        self.head = _layers(_GRU_WIDTH + num_features, target_dim, _HEAD_LAYERS)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, F) to (B, T - skipped, Y)."""
        rows = torch.cat([self.gru(features)[0], features], -1)
        return self.head(rows[:, self.skipped :])


def _mlp(num_features: int, target_dim: int) -> nn.Module:
    return _layers(num_features, target_dim, _MLP_LAYERS)


def _layers(num_features: int, target_dim: int, num_layers: int) -> nn.Module:
    layers: list[nn.Module] = []
    for layer in range(num_layers):
        layers += [nn.Linear(_WIDTH if layer else num_features, _WIDTH), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(_WIDTH, target_dim))


@dataclass(frozen=True)
class Network:
    """A trained network over the standardised features of every step."""

    features: Callable[[Batch], Tensor]
    output: Output
    module: nn.Module

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y)."""
        return self.output.prediction(batch.current, self.module(self.features(batch)))


def fit_mlp(world: World, budget: Budget) -> Network:
    """Train an MLP of three layers of 256 on past, current and characteristics."""
    return _fit(world, budget, _mlp)


def fit_oracle(world: World, budget: Budget) -> Network:
    """Train the same MLP with ``Batch.context`` as a further input.

    Raises:
        ConfigError: the world has no context.
    """
    if world.spec.context_dim == 0:
        raise ConfigError(f"world {world.spec.name} knows no context to tell; leave the baseline oracle out")
    return _fit(world, budget, _mlp, "context")


def fit_gru(world: World, budget: Budget) -> Network:
    """Train a GRU of 128, with two layers of 256 on top, on the episode so far."""
    return _fit(world, budget, SequenceHistory)


def _fit(world: World, budget: Budget, build: Callable[[int, int], nn.Module], *extra: str) -> Network:
    """Train with or without the characteristics, whichever a short training finds better on the valid split."""
    probe = replace(budget, steps=max(1, budget.steps // _PROBE_SHARE))
    valid = valid_batch(world, budget)

    def train(inputs: tuple[str, ...], budget: Budget) -> Network:
        features = Features.fit(world, budget, inputs)
        return fit_network(world, budget, features, lambda: build(features.size, world.spec.target_dim))

    def error(inputs: tuple[str, ...]) -> float:
        return mse(train(inputs, probe).predict(valid), valid.target, world.spec.scale)

    return train(min([(*INPUTS, *extra), (*STATES, *extra)], key=error), budget)


def fit_network(
    world: World, budget: Budget, features: Callable[[Batch], Tensor], build: Callable[[], nn.Module]
) -> Network:
    """Train with AdamW, a warm-up and a cosine down to zero.

    Args:
        world: source of the data.
        budget: amount of data, and the peak learning rate.
        features: the network's inputs from a batch.
        build: a network of linear layers and GRUs, whose output is (B, T, Y) in the units of ``Output``.
    """
    output = Output.of(world.spec)
    # Built without storage, because torch fills new layers from the global generator.
    with torch.device("meta"):
        module = build()
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
            for parameter in layer.parameters(recurse=False):
                bound = _fan_in(layer) ** -0.5
                parameter.uniform_(-bound, bound, generator=random)


def _fan_in(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, nn.GRU), layer
    return layer.hidden_size


def _lr_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step."""
    warm_up = max(1, round(_WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
