"""Trials: runs of the system over the same test sequences.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.evaluation.metrics import errors
from leworld.memory import Reader
from leworld.models.system import Redirect, System
from leworld.types import Batch, Query, Ranges

Request = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trial:
    """What the system of N SLMs did on (B, T) samples.

    ``error`` (B, T); ``mask`` (B, T, N) bool; ``start`` (B, T, N, K) candidates, best first; ``reads`` (B, T, N) int64,
    ranges read; ``asked`` (B, T) bool, True if a request was sent.
    """

    error: Tensor
    mask: Tensor
    start: Tensor
    reads: Tensor
    requested: Tensor


def reading(system: System, memory: Reader) -> System:
    """The same system with another memory."""
    return System(system.blm, system.fleet, memory, system.spec, system.device)


def no_request(query: Tensor) -> Tensor:
    """A request of zeros."""
    return torch.zeros_like(query)


def teacher_forced(
    system: System,
    batch: Batch,
    *,
    request: Request | None = None,
    redirect: Redirect | None = None,
    oracle: bool = False,
) -> Trial:
    """Predict every step from the true states, each request going to the next step.

    Args:
        system: the system to try.
        batch: (B, T) sequences, with a column for each table.
        request: changes a request on its way; None passes it on.
        redirect: changes the proposed ranges; None reads them.
        oracle: use the write log's ranges and the true relevance instead of SLMs and router.
    """
    requested = batch.current.new_zeros(len(batch.current), system.blm.config.query_dim)
    tables = system.tables
    batch = batch.columns(tables)
    steps, seen = [], None
    for t in range(batch.shape[1]):
        now = batch.at(t)
        query = Query(now.past, now.current, now.characteristics, requested)
        ranges, mask = oracle_choice(now, tables) if oracle else (None, None)
        seen = system.observe(query, seen)
        step = system.predict(query, seen=seen, ranges=ranges, mask=mask, redirect=redirect)
        step = step.over(now.labels.start.shape[1])
        error = errors(step.next_state.cpu(), now.target, system.spec.scale)
        found = (step.mask.cpu() > 0.5, step.proposals.start.cpu(), step.num_reads_tried.cpu())
        steps.append((error, *found, step.info_query.cpu().any(-1)))
        requested = step.info_query.cpu() if request is None else request(step.info_query.cpu())
    return Trial(*(torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)))


def oracle_choice(batch: Batch, tables: Tensor | None = None) -> tuple[Ranges, Tensor]:
    """(B, N) ranges of the write log, and the mask of those that are known and, if the world tells, relevant.

    Of SLMs with the same of (N,) ``tables`` only the first is trusted: it is enough to read a record once.
    """
    mask = batch.labels.length > 0
    if batch.relevant is not None:
        mask = mask & batch.relevant
    if tables is not None:
        mask = mask & (tables.unsqueeze(0) == tables.unsqueeze(1)).tril(-1).any(-1).logical_not()
    return batch.labels, mask.float()


def free_running(system: System, batch: Batch) -> Tensor:
    """(B, T) error of step t if all states after the first are predictions; actions are the true ones."""
    target_dim = system.spec.target_dim
    requested = batch.current.new_zeros(len(batch.current), system.blm.config.query_dim)
    past, current = batch.past[:, 0], batch.current[:, 0]
    results, seen = [], None
    for t in range(batch.shape[1]):
        query = Query(past, current, batch.characteristics[:, t], requested)
        # Steps after the first are imagined and are not evidence.
        seen = system.observe(query) if t == 0 else seen
        step = system.predict(query, seen=seen)
        predicted, requested = step.next_state.cpu(), step.info_query.cpu()
        results.append(errors(predicted, batch.target[:, t], system.spec.scale))
        if t + 1 < batch.shape[1]:
            past, current = current, torch.cat([predicted, batch.current[:, t + 1, target_dim:]], dim=-1)
    return torch.stack(results, dim=1)
