"""A group of learners in processes of their own, over torch.distributed. Arrays travel; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.errors import ActorError
from actors.rpc.codec import decode, encode
from actors.rpc.tensors import from_wire, to_wire
from leworld.errors import LeWorldError
from leworld.training.data_parallel import BatchPart, LearnerGroup
from leworld.types import Ranges


class DistributedGroup(LearnerGroup):
    """The processes of torch's process group. All of them make the same calls in the same order."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, value: Tensor) -> Tensor:
        """See ``LearnerGroup``."""
        total = value.detach().to("cpu", copy=True)
        dist.all_reduce(total)
        return total.to(value.device)

    def gather(self, ranges: Ranges, part: BatchPart) -> Ranges:
        """See ``LearnerGroup``."""
        # A learner with all samples has all ranges.
        return ranges if part.weight < 1 else joined(self.exchange(to_wire(ranges))).to(ranges.start.device)

    def sum_gradients(self, module: nn.Module) -> None:
        """See ``LearnerGroup``; a gradient that no learner has stays None, because zeros would also make a step."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        has = self.sum(torch.tensor([float(parameter.grad is not None) for parameter in parameters]))
        some = [parameter for parameter, count in zip(parameters, has.tolist(), strict=True) if count]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in some]
        total = self.sum(torch.cat([grad.flatten() for grad in grads])) if some else torch.zeros(0)
        for parameter, grad in zip(some, total.split([p.numel() for p in some]), strict=True):
            parameter.grad = grad.view_as(parameter).clone()

    def exchange(self, value: Any) -> list[Any]:
        """See ``LearnerGroup``."""
        own = _to_bytes(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(own)]))
        most = max(int(size) for size in sizes)
        padded = torch.zeros(most, dtype=torch.uint8)
        padded[: len(own)] = own
        found = [torch.empty(most, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(found, padded)
        return [_from_bytes(raw[: int(size)]) for raw, size in zip(found, sizes, strict=True)]

    def share(self, make: Callable[[], Any]) -> Any:
        """See ``LearnerGroup``.

        Raises:
            LeWorldError: sharing failed; each learner gets the error.
        """
        if self.rank == 0:
            return self._give(make)
        kind, content = self._receive()
        if kind == "refused":
            raise ActorError("BLM learner 0", f"stopped ({content})", "see its own message")
        return content

    def _give(self, make: Callable[[], Any]) -> Any:
        try:
            made = make()
        except LeWorldError as error:
            self._send(["refused", str(error)])
            raise
        self._send(["done", made])
        return made

    def _send(self, value: Any) -> None:
        raw = _to_bytes(value)
        dist.broadcast(torch.tensor([len(raw)]), 0)
        dist.broadcast(raw, 0)

    def _receive(self) -> Any:
        size = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(size, 0)
        raw = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(raw, 0)
        return _from_bytes(raw)


def joined(parts: list[Any]) -> Any:
    """Records of arrays to one of tensors, their rows one after another."""
    first, *others = map(from_wire, parts)
    return first.map(lambda *tensors: torch.cat(tensors), *others)


def _to_bytes(value: Any) -> Tensor:
    raw = msgpack.Packer().pack([bytes(frame) for frame in encode(value)])
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def _from_bytes(raw: Tensor) -> Any:
    return decode(msgpack.unpackb(raw.numpy().tobytes()))
