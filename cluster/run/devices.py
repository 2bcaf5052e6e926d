"""Devices: where the learner computes. SLMs stay on the CPU: they are small, and many share a machine."""

from __future__ import annotations

from typing import Literal

import torch

from leworld.errors import ConfigError

Wish = Literal["auto", "cpu", "cuda"]


def choose_device(wish: Wish, gpus: float, where: str) -> str:
    """Return the device for a wish.

    Args:
        wish: ``auto`` takes a GPU if there is one.
        gpus: number of usable GPUs.
        where: their place, for the error.

    Returns:
        ``cpu`` or ``cuda``.

    Raises:
        ConfigError: a GPU is wished for and there is none.
    """
    if wish == "cuda" and gpus < 1:
        raise ConfigError(f"cluster.device cuda: {where} has no free GPU; set cluster.device to auto or cpu")
    return "cuda" if wish != "cpu" and gpus >= 1 else "cpu"


def torch_gpus() -> int:
    """GPUs that torch can use in this process."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
