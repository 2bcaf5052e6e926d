"""A GPU that is not there: tensors moved to ``cuda`` stay where they are, but may not meet those that were not moved.

What a real GPU would refuse is refused here too, and somewhat more: an index must lie with what it indexes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda")
CROSSING = ("copy_", "_has_compatible_shallow_copy_type")
"""What may meet tensors of both: the first moves numbers into what it is called on, the second only asks."""


class PretendGPU(TorchFunctionMode):
    """While it is on, ``tensor.to("cuda")`` marks a copy, and results of marked tensors are marked.

    Attributes:
        num_marked: calls that worked on marked tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_marked = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in ("to", "cpu") and isinstance(args[0], Tensor):
            return _move(func, args, kwargs)
        tensors = list(_tensors((args, kwargs)))
        marked = [tensor for tensor in tensors if _is_marked(tensor)]
        if owner == "device" and name == "__get__":
            return CUDA if marked else func(*args, **kwargs)
        if owner in ("data", "grad") and name == "__set__":
            func(*args, **kwargs)
            return _mark(args[0]) if len(tensors) == 2 and _is_marked(args[1]) else None
        wanted = torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if wanted:
            kwargs["device"] = "cpu"
        # A single number may come from anywhere, as on a real GPU.
        others = [tensor for tensor in tensors if tensor.dim() and not _is_marked(tensor)]
        if name in CROSSING:
            return func(*args, **kwargs)
        if marked and others:
            raise RuntimeError(f"{name} meets tensors on cuda and on the CPU")
        if marked and name == "numpy":
            raise TypeError("a tensor on cuda has no numpy array")
        result = func(*args, **kwargs)
        if marked or wanted:
            self.num_marked += 1
            for tensor in _tensors(result):
                _mark(tensor)
        return result


def _move(func: Any, args: Any, kwargs: Any) -> Tensor:
    """``to`` and ``cpu``: a device is a mark, a type is a type."""
    source, given = args[0], [*args[1:], kwargs.get("device"), kwargs.get("dtype")]
    devices = [part for part in given if isinstance(part, str | torch.device)]
    target = _is_marked(source)
    if devices or func.__name__ == "cpu":
        target = bool(devices) and torch.device(devices[0]).type == "cuda"
    moved = source
    for dtype in (part for part in given if isinstance(part, torch.dtype)):
        moved = moved.to(dtype)
    if target != _is_marked(source):
        moved = moved.clone()
    return _mark(moved) if target else moved


def _is_marked(tensor: Tensor) -> bool:
    return getattr(tensor, "on_pretend_gpu", False)


def _mark(tensor: Tensor) -> Tensor:
    tensor.on_pretend_gpu = True
    return tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
