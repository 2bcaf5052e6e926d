"""Several equal modules as one: their weights are stacked, so that one batched product replaces many.

A batched product may sum in another order, so results equal those of the single modules only to rounding.

Shapes:
    K: modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """K linear layers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(K, ..., in) to (K, ..., out)."""
        rows, weight = x.flatten(1, -2), self.weight.transpose(1, 2)
        out = rows @ weight if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), rows, weight)
        return out.view(*x.shape[:-1], -1)


class StackedNorm(nn.Module):
    """K layer norms over the last axis."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(K, ..., D) to (K, ..., D)."""
        weight, bias = (part.view(len(part), *[1] * (x.dim() - 2), -1) for part in (self.weight, self.bias))
        return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:], eps=self.eps), weight)


KINDS: Mapping[type, Any] = {nn.Linear: StackedLinear, nn.LayerNorm: StackedNorm}


class Stack:
    """K modules as one whose inputs and outputs have a leading axis K.

    Linear layers and norms are batched; a parameter of any other kind must broadcast against (K, rows, ...).

    Attributes:
        modules: the single ones; their parameters become slices of the stack's. Either can run, and an optimiser's step
            changes both.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.whole = deepcopy(self.modules[0])
        self.parts = [dict(module.named_parameters()) for module in self.modules]
        for name in self.parts[0]:
            data = torch.stack([part[name].detach() for part in self.parts])
            owner, _, own_name = name.rpartition(".")
            setattr(self.whole.get_submodule(owner), own_name, nn.Parameter(data))
            for part, one in zip(self.parts, data, strict=True):
                part[name].data = one
        for owner in list(self.whole.modules()):
            for name, child in list(owner.named_children()):
                if type(child) in KINDS:
                    setattr(owner, name, KINDS[type(child)](child))

    def __call__(self, which: Sequence[int], *inputs: Any) -> Any:
        """Run some of the modules.

        Args:
            which: modules, ascending.
            inputs: with the leading axis ``len(which)``.
        """
        if len(which) == len(self.modules):
            return self.whole(*inputs)
        index = torch.tensor(which, device=next(self.whole.parameters()).device)
        chosen = {name: weight[index] for name, weight in self.whole.named_parameters()}
        return torch.func.functional_call(self.whole, chosen, inputs)

    def hand_out_gradients(self, which: Sequence[int]) -> None:
        """Add the stack's gradients to those of the modules, and clear them."""
        for name, weight in self.whole.named_parameters():
            if weight.grad is None:
                continue
            for i in which:
                own, more = self.parts[i][name], weight.grad[i]
                own.grad = more.clone() if own.grad is None else own.grad + more
            weight.grad = None
