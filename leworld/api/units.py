"""Convert between the user's arrays and the model's tensors. Only this module checks shapes and changes units.

Shapes:
    S: state.  A: action.  C: characteristics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.errors import DataError
from leworld.worlds.base import WorldSpec
from leworld.worlds.transition_format import TransitionFormat

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UserUnits:
    """A world's sizes and units; without a ``format``, the user's units are the model's."""

    spec: WorldSpec
    format: TransitionFormat | None

    @property
    def state_dim(self) -> int:
        """S."""
        return self.spec.target_dim

    @property
    def action_dim(self) -> int:
        """A; 0 if the world has no actions."""
        return self.spec.state_dim - self.spec.target_dim

    @property
    def char_dim(self) -> int:
        """C."""
        return self.spec.char_dim

    def array(self, name: str, value: Any, shape: tuple[int | str, ...]) -> Floats:
        """Check that numbers are finite and have a shape, in which a letter is any number from 1.

        Raises:
            DataError: they do not.
        """
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "iufb":
            raise DataError(f"{name} is not an array of numbers: give one of shape {shown(shape)}")
        fits = array.ndim == len(shape) and all(
            size >= 1 if isinstance(wanted, str) else size == wanted
            for size, wanted in zip(array.shape, shape, strict=True)
        )
        if not fits:
            raise DataError(f"{name} has shape {array.shape}: world {self.spec.name} needs {shown(shape)} here")
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            index = tuple(bad[0].tolist())
            raise DataError(f"{name} is {array[index]} at {index}: give finite numbers")
        return array.astype(np.float64)

    def inputs(self, states: Floats, actions: Floats) -> Tensor:
        """(..., S) states and (..., A) actions to float32 inputs of the model."""
        joined = torch.from_numpy(np.concatenate([states, actions], axis=-1))
        return (joined if self.format is None else self.format.inputs.standardised(joined)).float()

    def model_state(self, states: Floats) -> Tensor:
        """(..., S) states in the model's units."""
        return self.inputs(states, np.zeros((*states.shape[:-1], 0)))

    def model_actions(self, actions: Floats) -> Tensor:
        """(..., A) actions in the model's units."""
        return self.inputs(np.zeros((*actions.shape[:-1], self.state_dim)), actions)[..., self.state_dim :]

    def user_state(self, states: Tensor) -> Floats:
        """(..., S) states of the model in the user's units."""
        plain = states.cpu().double()
        return (plain if self.format is None else self.format.inputs.restored(plain)).numpy()

    def characteristics(self, values: Floats) -> Tensor:
        """(..., C) characteristics in the model's units, float32."""
        plain = torch.from_numpy(values)
        units = None if self.format is None else self.format.characteristics
        return (plain if units is None else units.standardised(plain)).float()


def shown(shape: tuple[int | str, ...]) -> str:
    """A shape as text, such as ``(B, 3)``."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
