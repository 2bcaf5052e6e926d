"""What was observed of the bodies of a world, and the units in which models see it.

Shapes:
    W: bodies.  M: stored transitions of a body.  E: sequences.  T: time steps.
    S: state with its action.  Y: state, the leading dimensions of S.  C: characteristics.  P: context.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrajectoryData:
    """What was observed, in the source's own units; float32 or float64.

    Attributes:
        characteristics: (W, C), of mean 0 and unit size.
        stored_inputs: (W, M, S).
        stored_next: (W, M, Y).
        inputs: (E, T, S) state and action.
        past: (E, T, S) the inputs one step earlier; equal to ``inputs`` where there is no such step.
        following: (E, T, Y) the next state.
        world: (E,) int64, which body.
        split: (W,) int64, index into ``SPLITS``.
        context: (W, P) the true physics, where known.
        characteristics_units: what made the source's characteristics into these, where they are others.
    """

    characteristics: Tensor
    stored_inputs: Tensor
    stored_next: Tensor
    inputs: Tensor
    past: Tensor
    following: Tensor
    world: Tensor
    split: Tensor
    context: Tensor | None = None
    characteristics_units: Moments | None = None


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of each dimension; ``mean``, ``std`` (D,). A constant dimension keeps its size."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Those of ``values`` (..., D)."""
        std, mean = torch.std_mean(values.reshape(-1, values.shape[-1]), dim=0, correction=0)
        return cls(mean, torch.where(std > 1e-6, std, 1.0))

    def standardised(self, values: Tensor) -> Tensor:
        """``values`` (..., d <= D), of the leading dimensions."""
        dims = values.shape[-1]
        return (values - self.mean[:dims]) / self.std[:dims]

    def restored(self, values: Tensor) -> Tensor:
        """Inverse of ``standardised``; float64 where the moments are."""
        dims = values.shape[-1]
        return values * self.std[:dims] + self.mean[:dims]


@dataclass(frozen=True)
class Units:
    """How states with actions, and the context, are standardised: by the training bodies."""

    inputs: Moments
    context: Moments | None

    @classmethod
    def of(cls, data: TrajectoryData) -> Units:
        """Those of what was observed."""
        train = data.split == 0
        context = None if data.context is None else Moments.of(data.context[train])
        return cls(Moments.of(data.inputs[train[data.world]].double()), context)

    def normalised(self, data: TrajectoryData) -> TrajectoryData:
        """``data`` in these units; float32."""
        names = ("inputs", "past", "stored_inputs", "following", "stored_next")
        changed = {name: self.inputs.standardised(getattr(data, name)).float() for name in names}
        if data.context is not None and self.context is not None:
            changed["context"] = self.context.standardised(data.context).float()
        return replace(data, **changed)
