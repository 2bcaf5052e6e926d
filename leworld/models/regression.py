"""Bayesian least squares on learnt features: a body's dynamics from its transitions, in closed form.

Any number of transitions become one sum of moments; sums of several reads and of the episode add up. Without
transitions all weights are 0. The weights describe the body; layers that see them add what is not linear in the
features. Moments are float64, so that rounding does not make the equations unsolvable.

Source: ALPaCA, Harrison et al. 2018, https://arxiv.org/abs/1807.08912

Shapes:
    F: features.  S: state with its action.  Y: predicted state.  E = F * (F + Y): moments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leworld.models.layers import zeroed

LEAST_NOISE = 1e-3
"""Least variance of a transition, in units of the prior's."""
ROUNDING = 1e-12
"""Part of the trace that is added to the diagonal, so that the equations stay solvable."""


class Regression(nn.Module):
    """Predicts a change as a prior of the inputs plus a rest fitted to transitions of the same body.

    ``num_features`` F; ``hidden`` the width of their two layers.
    """

    def __init__(self, state_dim: int, target_dim: int, num_features: int, hidden: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.linear = nn.Linear(state_dim, num_features)
        self.curved = nn.Sequential(
            nn.Linear(state_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, num_features),
        )
        self.prior = zeroed(nn.Linear(state_dim + num_features, target_dim))
        self.body = nn.Linear(num_features * target_dim, hidden // 2)
        self.rest = nn.Sequential(
            nn.Linear(hidden // 2 + state_dim + num_features + target_dim, 2 * hidden),
            nn.GELU(),
            nn.Linear(2 * hidden, 2 * hidden),
            nn.GELU(),
            zeroed(nn.Linear(2 * hidden, target_dim)),
        )
        # Log of how far a feature's weight may lie from the prior's.
        self.spread = nn.Parameter(torch.zeros(num_features))
        self.noise = nn.Parameter(torch.tensor(-2.0))

    def features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(..., S) to (..., F) features, and the prior's (..., Y) change."""
        x = self.linear(inputs) + self.curved(inputs)
        return x * torch.exp(self.spread), self.prior(torch.cat([inputs, x], dim=-1))

    def points(self, inputs: Tensor, change: Tensor) -> Tensor:
        """Transitions from (..., S) by (..., Y) to (..., F + Y): features, and the change beyond the prior's."""
        features, expected = self.features(inputs)
        return torch.cat([features, change - expected], dim=-1)

    def moments(self, points: Tensor, weight: Tensor) -> Tensor:
        """(R, M, F + Y) points with (R, M) weights to their (R, E) sum, float64."""
        points = points.double()
        features = points[..., : self.num_features] * weight.unsqueeze(-1)
        return (features.transpose(1, 2) @ points).flatten(1)

    def variance(self) -> Tensor:
        """The variance that the features do not explain, in units of the prior's variance."""
        return torch.exp(self.noise) + LEAST_NOISE

    def weights(self, moments: Tensor) -> Tensor:
        """(B, E) moments to the (B, F, Y) weights of the features; 0 for moments of 0."""
        moments = moments.unflatten(1, (self.num_features, -1))
        covariance, response = moments.split([self.num_features, moments.shape[-1] - self.num_features], dim=-1)
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        noise = self.variance() + ROUNDING * trace
        factor = torch.linalg.cholesky(covariance + torch.diag_embed(noise.unsqueeze(1).expand_as(covariance[..., 0])))
        return torch.cholesky_solve(response, factor).to(torch.float32)

    def posterior(self, inputs: Tensor, features: Tensor, moments: Tensor) -> Tensor:
        """(B, Y) change beyond the prior's at (B, S) inputs with (B, F) features, from (B, E) moments."""
        weights = self.weights(moments)
        fitted = (features.unsqueeze(1) @ weights).squeeze(1)
        return fitted + self.rest(torch.cat([self.body(weights.flatten(1)), inputs, features, fitted], dim=-1))
