"""AdamW with clipping, whose state is a flat dictionary of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leworld.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """One module's AdamW: biases, norms and embeddings are not decayed."""

    def __init__(self, module: nn.Module, weight_decay: float, grad_clip: float) -> None:
        self.grad_clip = grad_clip
        self.names = dict(module.named_parameters())
        decay = [p for p in self.names.values() if p.dim() == 2]
        plain = [p for p in self.names.values() if p.dim() != 2]
        groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))

    def step(self, lr: float) -> float:
        """Clip the gradients, make a step, and clear them.

        Returns:
            the norm of the gradient before clipping.
        """
        for group in self.adam.param_groups:
            group["lr"] = lr
        norm = nn.utils.clip_grad_norm_(self.names.values(), self.grad_clip)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return float(norm)

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """Weights as ``model.NAME``, moments as ``adam.MOMENT.NAME``, step counts as ``adam.step.NAME``: copies."""
        tensors = {f"model.{name}": p.detach().cpu().clone() for name, p in module.named_parameters()}
        for name, p in self.names.items():
            for key, value in self.adam.state.get(p, {}).items():
                tensors[f"adam.{key}.{name}"] = value.detach().cpu().clone()
        return tensors

    def load_state(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``.

        Raises:
            CheckpointError: a name is missing, unknown or of another shape.
        """
        check_state(state, {f"model.{name}": p for name, p in module.named_parameters()})
        with torch.no_grad():
            for name, p in self.names.items():
                p.copy_(state[f"model.{name}"])
        self.adam.state.clear()
        for name, p in self.names.items():
            if f"adam.step.{name}" in state:
                moments = {key: state[f"adam.{key}.{name}"].to(p.device).clone() for key in MOMENTS}
                self.adam.state[p] = {"step": state[f"adam.step.{name}"].clone(), **moments}


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless the weights in ``state`` are those of this model."""
    weights = {name for name in state if name.startswith("model.")}
    for name in sorted(expected.keys() ^ weights):
        side = "lacks" if name in expected else "has the unknown"
        raise CheckpointError(f"checkpoint {side} weight {name}: it is of another model; resume with its own config")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"checkpoint weight {name} has shape {tuple(state[name].shape)}, this model {tuple(tensor.shape)}: "
                "resume with the checkpoint's own config"
            )


def warmup_cosine(step: int, num_steps: int, lr: float, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine down to 0."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    part = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return lr * 0.5 * (1 + math.cos(part * math.pi))
