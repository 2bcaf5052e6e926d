"""Training of the SLMs: on fresh keys in pre-training and rehearsal, and on the credit of the later phases.

Shapes: see ``leworld.types``; P: pairs of a sample and an SLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from leworld.models.addressing import address_loss
from leworld.models.fleet import AnsweredPart, Fleet, FleetConfig, Kept, SLMHost
from leworld.models.slm import SLM, SLMOutput
from leworld.optim import Optimizer, warmup_cosine
from leworld.rng import generator
from leworld.types import Credit, Query
from leworld.worlds.base import World

Metrics = dict[str, float]
Moment = tuple[str, int]
"""A phase and a step of it."""


@dataclass(frozen=True)
class SLMTrainingConfig(FleetConfig):
    """Settings to build and train any SLM of a system, the same in every process."""

    pretrain_batch: int
    rule_batch: int
    rule_steps: int
    pretrain_steps: int
    pretrain_lr: float
    rehearsal_batch: int
    warmup_steps: int
    weight_decay: float
    grad_clip: float
    length_weight: float
    confidence_weight: float


class TrainableFleet(Fleet, Protocol):
    """A fleet whose SLMs learn: from fresh keys, and from credit."""

    def join(self, slm_id: int, steps: int) -> None:
        """Add an SLM with a number above all others, and pre-train it for some steps."""
        ...

    def leave(self, slm_id: int) -> None:
        """Remove an SLM."""
        ...

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """Start pre-training steps of every SLM; the returned function waits and returns each SLM's last metrics."""
        ...

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """One optimiser step on the credits of all kept proposals, in their order, and on fresh keys.

        An SLM without a kept proposal does not change.

        Args:
            credits: one for each kept proposal, with its columns.
            lr: of this step.
            moment: phase and step, which determine the fresh keys.

        Returns:
            for each credit, the (B, Q) gradient of the SLMs' loss with respect to the info query.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser state of every SLM, by name, on the CPU."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``."""
        ...


class SLMGroup(SLMHost):
    """SLMs of a fleet in this process, each with its own optimiser; with all SLMs it is a ``TrainableFleet``."""

    def __init__(
        self, config: SLMTrainingConfig, world: World, slm_ids: Sequence[int] | None = None, device: str = "cpu"
    ) -> None:
        self.training = config
        self.world = world
        self.optimizers: list[Optimizer] = []
        super().__init__(config, world.spec, slm_ids, device)

    def host(self, slm_ids: Sequence[int]) -> None:
        """See ``SLMHost``; optimisers stay with their SLMs."""
        there = dict(zip(self.slm_ids, self.optimizers, strict=True))
        super().host(slm_ids)
        pairs = zip(slm_ids, self.slms, strict=True)
        self.optimizers = [there[slm_id] if slm_id in there else self._optimizer(slm) for slm_id, slm in pairs]

    def join(self, slm_id: int, steps: int) -> None:
        """See ``TrainableFleet``."""
        self.host([*self.slm_ids, slm_id])
        self._pretrain_one(self.num_slms - 1, 0, steps)

    def leave(self, slm_id: int) -> None:
        """See ``TrainableFleet``."""
        self.host([other for other in self.slm_ids if other != slm_id])

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """See ``TrainableFleet``; the work is done when the returned function is called."""
        return lambda: [self._pretrain_one(i, first_step, num_steps) for i in range(self.num_slms)]

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """See ``TrainableFleet``."""
        assert len(credits) == len(self.kept), (len(credits), len(self.kept))
        kept, self.kept = self.kept, []
        parts: dict[tuple[int, ...], list[tuple[Kept, AnsweredPart, Credit]]] = {}
        for one, credit in zip(kept, credits, strict=True):
            listed = one.pairs.take(credit.to(self.device))
            for part in one.parts:
                own = listed.map(lambda x, place=part.place: x[place])
                parts.setdefault(part.members, []).append((one, part, own))
        for members, taught in parts.items():
            self._teach(members, taught, len(kept), moment)
        for i in sorted({i for members in parts for i in members}):
            self.optimizers[i].step(lr)
        return [cast(Tensor, one.query.info_query.grad) for one in kept]

    def _teach(
        self, members: tuple[int, ...], taught: list[tuple[Kept, AnsweredPart, Credit]], num_kept: int, moment: Moment
    ) -> None:
        """Compute the gradients of SLMs that answered together, from credit and from fresh keys."""
        losses, hidden, hidden_grad = [], [], []
        for kept, part, credit in taught:
            # The mean is over all samples, also those that did not ask this SLM.
            share = len(part.output.hidden) / kept.pairs.samples
            losses.append(share * self._loss(part.output, kept.start[part.place], credit))
            hidden.append(part.output.hidden)
            hidden_grad.append(credit.hidden_grad)
        loss = torch.stack(losses).sum() / num_kept
        loss = loss + sum(self._rehearsal_loss(i, moment) for i in members)
        torch.autograd.backward([loss, *hidden], [torch.ones_like(loss), *hidden_grad])
        if self.stack is not None:
            self.stack.hand_out_gradients(members)

    def state(self) -> dict[str, Tensor]:
        """See ``TrainableFleet``."""
        return {
            f"slm.{slm_id}.{name}": tensor
            for slm_id, slm, optimizer in zip(self.slm_ids, self.slms, self.optimizers, strict=True)
            for name, tensor in optimizer.state(slm).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See ``TrainableFleet``."""
        for slm_id, slm, optimizer in zip(self.slm_ids, self.slms, self.optimizers, strict=True):
            prefix = f"slm.{slm_id}."
            optimizer.load_state(slm, {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        self.kept = []

    def _optimizer(self, slm: SLM) -> Optimizer:
        return Optimizer(slm, self.training.weight_decay, self.training.grad_clip)

    def _pretrain_one(self, i: int, first_step: int, num_steps: int) -> Metrics:
        metrics: Metrics = {}
        for step in range(first_step, first_step + num_steps):
            metrics = self._pretrain_step(i, step)
        return metrics

    def _pretrain_step(self, i: int, step: int) -> Metrics:
        """Cross-entropy against the address that the placement gives a key."""
        config = self.training
        lr = warmup_cosine(step, config.pretrain_steps, config.pretrain_lr, config.warmup_steps)
        for repeat in range(config.rule_steps):
            self._rule_loss(i, step, repeat).backward()
            self.optimizers[i].step(lr)
        loss, hit = self._key_loss(i, config.pretrain_batch, ("keys", step))
        loss.backward()
        self.optimizers[i].step(lr)
        return {"slm_loss": loss.item(), "hit_top1": hit}

    def _rehearsal_loss(self, i: int, moment: Moment) -> Tensor | float:
        """Loss on fresh keys, which keep an SLM from memorising the training worlds' keys."""
        batch = self.training.rehearsal_batch
        return self._key_loss(i, batch, moment)[0] if batch else 0.0

    def _key_loss(self, i: int, batch: int, moment: Moment) -> tuple[Tensor, float]:
        """Loss on fresh keys, and the share of them whose best candidate is right."""
        slm_id = self.slm_ids[i]
        keys = self.world.keys(batch, generator(self.training.seed, "slm", slm_id, *moment)).to(self.device)
        table = slm_id % self.world.spec.num_tables
        start, length = keys.labels.start[:, table], keys.labels.length[:, table]
        nothing = keys.past.new_zeros(batch, self.training.query_dim)
        output = self.slms[i](Query(keys.past, keys.current, keys.characteristics, nothing))
        found = output.candidates(1)[0][:, 0] == start
        loss = self._label_loss(output, start, length, torch.ones_like(start, dtype=torch.float32), found)
        return loss, found.float().mean().item()

    def _rule_loss(self, i: int, step: int, repeat: int) -> Tensor:
        """Loss of the linear rule on fresh keys; only pre-training uses it, as placement does not change."""
        slm_id = self.slm_ids[i]
        keys = self.world.keys(self.training.rule_batch, generator(self.training.seed, "rule", slm_id, step, repeat))
        start = keys.labels.start[:, slm_id % self.world.spec.num_tables]
        return self.slms[i].digits.rule_loss(keys.characteristics.to(self.device), start.to(self.device))

    def _label_loss(self, output: SLMOutput, start: Tensor, length: Tensor, weight: Tensor, found: Tensor) -> Tensor:
        """Cross-entropy on digits and length of known addresses, and calibration of the confidence."""
        config = self.training
        loss = address_loss(output.digits, start)
        index = (length - 1).clamp(min=0).unsqueeze(1)
        loss = loss - config.length_weight * output.length.gather(1, index).squeeze(1)
        calibration = F.binary_cross_entropy_with_logits(output.confidence_logit, found.float(), reduction="none")
        loss = loss + config.confidence_weight * calibration
        return (weight * (length > 0) * loss).mean()

    def _loss(self, output: SLMOutput, start: Tensor, credit: Credit) -> Tensor:
        """Loss from (R, ...) credit: known addresses, and which of the SLM's (R, K) candidates helped."""
        found = start[:, 0] == credit.labels.start
        label = self._label_loss(output, credit.labels.start, credit.labels.length, credit.label_weight, found)
        chosen = torch.stack([-address_loss(output.digits, s) for s in start.unbind(1)], dim=1)
        hindsight = -(credit.candidate * chosen).sum(1)
        return label + (credit.candidate_weight * hindsight).mean()
