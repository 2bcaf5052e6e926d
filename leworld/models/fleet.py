"""Fleet: the SLMs as the learner meets them, whether they live here or in other processes.

Shapes: see ``leworld.types``; A: SLMs asked about a sample; P: pairs of a sample and an SLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leworld.models.addressing import address_loss
from leworld.models.routing_pairs import Pairs
from leworld.models.slm import SLM, SLMConfig, SLMOutput
from leworld.models.stack import Stack
from leworld.optim import Optimizer, warmup_cosine
from leworld.rng import derive_seed, generator
from leworld.types import Credit, Proposals, Query
from leworld.worlds.base import World, WorldSpec

Metrics = dict[str, float]
Moment = tuple[str, int]
"""A phase and a step of it."""
STACK_SLMS = 4
"""From as many SLMs on a process answers by batched products; with less, its answers are the same to the bit whoever
shares the process."""
STACK_ROWS = 32
"""Where an SLM is asked about more samples, plain products are as fast."""


@dataclass(frozen=True)
class FleetConfig:
    """All that is needed to build any of the SLMs of a system, alike in every process."""

    slm: SLMConfig
    num_slms: int
    query_dim: int
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
    seed: int


class Fleet(Protocol):
    """N SLMs that propose ranges and learn from credit."""

    @property
    def num_slms(self) -> int:
        """How many there are."""
        ...

    @property
    def members(self) -> list[int]:
        """Their numbers, ascending; what has a column for each SLM has them in this order."""
        ...

    def join(self, slm_id: int, steps: int) -> None:
        """Gain an SLM with a number above all others, pre-trained for some steps."""
        ...

    def leave(self, slm_id: int) -> None:
        """Lose one."""
        ...

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """Start pre-training steps of every SLM; the returned function waits and gives each SLM's last metrics."""
        ...

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """Ask SLMs; with ``learn`` they keep what ``learn`` needs, call by call.

        Args:
            query: of B samples.
            asked: (B, A) int64, places of the SLMs that each sample asks among ``members``; None asks all.
            learn: whether credit will come.

        Returns:
            columns are as ``shortlist`` has them, or all SLMs.
        """
        ...

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """One optimiser step on the credits of all kept proposals, in their order, and on fresh keys.

        SLMs that no kept proposal asked do not move.

        Args:
            credits: one for each kept proposal, with its columns.
            lr: of this step.
            moment: phase and step; the fresh keys follow from it.

        Returns:
            for each credit the (B, Q) gradient of all that the SLMs were taught with respect to the info query.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser state of every SLM, by name, on the CPU."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``."""
        ...


@dataclass(frozen=True)
class AnsweredPart:
    """What was answered at once: (R, ...) of the pairs at ``place``, of the group's ``members``."""

    output: SLMOutput
    place: slice
    members: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """A proposal that credit is to come for: ``start`` (P, K) of its pairs."""

    query: Query
    pairs: Pairs
    parts: list[AnsweredPart]
    start: Tensor


class SLMGroup:
    """Some of a fleet's SLMs in this process, each with its own optimiser; all of them make a whole ``Fleet``."""

    def __init__(
        self, config: FleetConfig, world: World, slm_ids: Sequence[int] | None = None, device: str = "cpu"
    ) -> None:
        self.config = config
        self.world = world
        self.device = device
        self.slm_ids = list(range(config.num_slms)) if slm_ids is None else list(slm_ids)
        self.num_slms = len(self.slm_ids)
        self.num_words = 1 << world.spec.address_bits
        self.slms = [self._build(slm_id) for slm_id in self.slm_ids]
        self.optimizers = [self._optimizer(slm) for slm in self.slms]
        self.stack = Stack(self.slms) if self.num_slms >= STACK_SLMS else None
        self.kept: list[Kept] = []

    @property
    def members(self) -> list[int]:
        """See ``Fleet``."""
        return self.slm_ids

    def host(self, slm_ids: Sequence[int]) -> None:
        """Have exactly these SLMs: those that stay keep what they learnt, others begin."""
        old = {slm_id: parts for slm_id, *parts in zip(self.slm_ids, self.slms, self.optimizers, strict=True)}
        new = {slm_id: self._build(slm_id) for slm_id in slm_ids if slm_id not in old}
        old |= {slm_id: [slm, self._optimizer(slm)] for slm_id, slm in new.items()}
        self.slm_ids, self.num_slms = list(slm_ids), len(slm_ids)
        self.slms, self.optimizers = (list(part) for part in zip(*(old[slm_id] for slm_id in slm_ids), strict=True))
        self.stack = Stack(self.slms) if self.num_slms >= STACK_SLMS else None
        self.kept = []

    def join(self, slm_id: int, steps: int) -> None:
        """See ``Fleet``."""
        self.host([*self.slm_ids, slm_id])
        self._pretrain_one(self.num_slms - 1, 0, steps)

    def leave(self, slm_id: int) -> None:
        """See ``Fleet``."""
        self.host([other for other in self.slm_ids if other != slm_id])

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """See ``Fleet``; here the work is done when the result is asked for."""
        return lambda: [self._pretrain_one(i, first_step, num_steps) for i in range(self.num_slms)]

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """See ``Fleet``."""
        if shortlist is None:
            pairs = Pairs.all(len(query.current), self.num_slms, self.device)
        else:
            pairs = Pairs.of(shortlist.to(self.device))
        return self.propose_pairs(query, pairs, learn=learn)

    def propose_pairs(self, query: Query, pairs: Pairs, *, learn: bool = False) -> Proposals:
        """``propose`` where it is listed which SLMs of this group are asked about which samples."""
        query = query.to(self.device)
        if learn:
            query = replace(query, info_query=query.info_query.detach().requires_grad_())
        with torch.set_grad_enabled(learn):
            parts = list(self._answers(query, pairs))
        # Each by itself: vectorised functions round by a number's place, which must not depend on who shares a process.
        answers = [to_proposals(part.output, self.config.slm.candidates, self.num_words) for part in parts]
        proposals = answers[0].map(lambda *same: torch.cat(same), *answers[1:])
        if learn:
            self.kept.append(Kept(query, pairs, parts, proposals.start))
        return pairs.put(proposals)

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """See ``Fleet``."""
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

    def _answers(self, query: Query, pairs: Pairs) -> Iterator[AnsweredPart]:
        """One after another, or where that is faster by batched products, all at once."""
        runs = list(pairs.runs())
        most = max(place.stop - place.start for _, place in runs)
        if self.stack is not None and len(runs) >= STACK_SLMS and most <= STACK_ROWS:
            yield self._answer_at_once(self.stack, query, pairs, runs, most)
            return
        for i, place in runs:
            whole = place.stop - place.start == len(query.current)
            own = query if whole else query.map(lambda x, place=place: x[pairs.row[place]])
            yield AnsweredPart(self.slms[i](own), place, (i,))

    def _answer_at_once(
        self, stack: Stack, query: Query, pairs: Pairs, runs: list[tuple[int, slice]], most: int
    ) -> AnsweredPart:
        """Every SLM about as many samples, some of them for nothing."""
        members = tuple(i for i, _ in runs)
        index = torch.zeros(len(runs), most, dtype=torch.int64, device=pairs.row.device)
        wanted = torch.zeros_like(index, dtype=torch.bool)
        for place, (_, run) in enumerate(runs):
            index[place, : run.stop - run.start] = pairs.row[run]
            wanted[place, : run.stop - run.start] = True
        answer = stack(members, query.map(lambda x: x[index]))
        output = SLMOutput(*(getattr(answer, part.name)[wanted] for part in fields(answer)))
        return AnsweredPart(output, slice(0, len(pairs.row)), members)

    def _teach(
        self, members: tuple[int, ...], taught: list[tuple[Kept, AnsweredPart, Credit]], num_kept: int, moment: Moment
    ) -> None:
        """The gradients of some SLMs that answered together: of credit, and of fresh keys."""
        losses, hidden, hidden_grad = [], [], []
        for kept, part, credit in taught:
            # The mean is over all samples, also those that asked others.
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
        """See ``Fleet``."""
        return {
            f"slm.{slm_id}.{name}": tensor
            for slm_id, slm, optimizer in zip(self.slm_ids, self.slms, self.optimizers, strict=True)
            for name, tensor in optimizer.state(slm).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See ``Fleet``."""
        for slm_id, slm, optimizer in zip(self.slm_ids, self.slms, self.optimizers, strict=True):
            prefix = f"slm.{slm_id}."
            optimizer.load_state(slm, {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        self.kept = []

    def _build(self, slm_id: int) -> SLM:
        return build_slm(self.config, self.world.spec, slm_id).to(self.device)

    def _optimizer(self, slm: SLM) -> Optimizer:
        return Optimizer(slm, self.config.weight_decay, self.config.grad_clip)

    def _pretrain_one(self, i: int, first_step: int, num_steps: int) -> Metrics:
        metrics: Metrics = {}
        for step in range(first_step, first_step + num_steps):
            metrics = self._pretrain_step(i, step)
        return metrics

    def _pretrain_step(self, i: int, step: int) -> Metrics:
        """Cross-entropy against the write log: the placement says where a key is kept."""
        config = self.config
        lr = warmup_cosine(step, config.pretrain_steps, config.pretrain_lr, config.warmup_steps)
        for repeat in range(config.rule_steps):
            self._rule_loss(i, step, repeat).backward()
            self.optimizers[i].step(lr)
        loss, hit = self._key_loss(i, config.pretrain_batch, ("keys", step))
        loss.backward()
        self.optimizers[i].step(lr)
        return {"slm_loss": loss.item(), "hit_top1": hit}

    def _rehearsal_loss(self, i: int, moment: Moment) -> Tensor | float:
        """Fresh keys keep an SLM from learning the training worlds' own by heart."""
        batch = self.config.rehearsal_batch
        return self._key_loss(i, batch, moment)[0] if batch else 0.0

    def _key_loss(self, i: int, batch: int, moment: Moment) -> tuple[Tensor, float]:
        """Loss on fresh keys, and the share of them whose best candidate is right."""
        slm_id = self.slm_ids[i]
        keys = self.world.keys(batch, generator(self.config.seed, "slm", slm_id, *moment)).to(self.device)
        table = slm_id % self.world.spec.num_tables
        start, length = keys.labels.start[:, table], keys.labels.length[:, table]
        nothing = keys.past.new_zeros(batch, self.config.query_dim)
        output = self.slms[i](Query(keys.past, keys.current, keys.characteristics, nothing))
        found = output.candidates(1)[0][:, 0] == start
        loss = self._label_loss(output, start, length, torch.ones_like(start, dtype=torch.float32), found)
        return loss, found.float().mean().item()

    def _rule_loss(self, i: int, step: int, repeat: int) -> Tensor:
        """Loss of the linear rule on fresh keys; it rests after pre-training, as placement does not change."""
        slm_id = self.slm_ids[i]
        keys = self.world.keys(self.config.rule_batch, generator(self.config.seed, "rule", slm_id, step, repeat))
        start = keys.labels.start[:, slm_id % self.world.spec.num_tables]
        return self.slms[i].digits.rule_loss(keys.characteristics.to(self.device), start.to(self.device))

    def _label_loss(self, output: SLMOutput, start: Tensor, length: Tensor, weight: Tensor, found: Tensor) -> Tensor:
        """Cross-entropy on digits and length where the address is known, and the calibration of the confidence."""
        config = self.config
        loss = address_loss(output.digits, start)
        index = (length - 1).clamp(min=0).unsqueeze(1)
        loss = loss - config.length_weight * output.length.gather(1, index).squeeze(1)
        calibration = F.binary_cross_entropy_with_logits(output.confidence_logit, found.float(), reduction="none")
        loss = loss + config.confidence_weight * calibration
        return (weight * (length > 0) * loss).mean()

    def _loss(self, output: SLMOutput, start: Tensor, credit: Credit) -> Tensor:
        """What credit of (R, ...) teaches: known addresses, and which of the own (R, K) candidates helped."""
        found = start[:, 0] == credit.labels.start
        label = self._label_loss(output, credit.labels.start, credit.labels.length, credit.label_weight, found)
        chosen = torch.stack([-address_loss(output.digits, s) for s in start.unbind(1)], dim=1)
        hindsight = -(credit.candidate * chosen).sum(1)
        return label + (credit.candidate_weight * hindsight).mean()


def build_slm(config: FleetConfig, spec: WorldSpec, slm_id: int) -> SLM:
    """One SLM with the initial weights that its number gives it in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "slm", slm_id))
        return SLM(config.slm, spec.state_dim, spec.char_dim, config.query_dim, spec.address_bits // 8)


def to_proposals(output: SLMOutput, k: int, num_words: int) -> Proposals:
    """What (P,) answers propose; ranges are clipped at the end of the memory, and the graph is cut."""
    start, log_prob, length = output.candidates(k)
    wanted = length.unsqueeze(-1).expand_as(start)
    clipped = torch.minimum(wanted, num_words - start)
    confidence = output.confidence_logit.sigmoid()
    return Proposals(
        start, clipped, clipped < wanted, log_prob.detach(), confidence.detach(), output.hidden.detach()
    )  # fmt: skip


def join_proposals(parts: Sequence[Proposals]) -> Proposals:
    """Put the answers of groups side by side."""
    names = ("start", "length", "clipped", "log_prob", "confidence", "hidden")
    return Proposals(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


def num_parameters(module: nn.Module) -> int:
    """How many numbers are learnt."""
    return sum(p.numel() for p in module.parameters())
