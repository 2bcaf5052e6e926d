"""The system: in one step, SLMs propose and the BLM chooses, reads and predicts.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from leworld.errors import ConfigError, DataError
from leworld.models.blm import BLM, BLMConfig, Slots
from leworld.models.forward_pass import ForwardPass, Parts, of_shortlist
from leworld.models.membership import tables_of
from leworld.models.pooling import Pooled
from leworld.models.router import Routing
from leworld.models.slm import SLMConfig
from leworld.models.slm_health import SLMHealth
from leworld.rng import derive_seed
from leworld.types import Proposals, Query, Ranges, Step, _Record
from leworld.worlds.base import WorldSpec

Redirect = Callable[[Ranges], Ranges]
"""Changes ranges, on the CPU, before they are read."""
DOUBTED = 0.5
"""A lower read confidence leads to a second look at the SLM's other candidates."""
MOST_SLMS = 1024
LARGEST = 1e12
"""The largest input; worlds scale theirs to about 1."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a system: ``num_slms`` SLMs of one kind and a BLM.

    The router chooses ``shortlist_size`` SLMs to ask for a prediction; None asks all.
    """

    slm: SLMConfig = field(default_factory=SLMConfig)
    blm: BLMConfig = field(default_factory=BLMConfig)
    num_slms: int = 3
    shortlist_size: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_slms <= MOST_SLMS:
            raise ConfigError(f"model.num_slms {self.num_slms} is outside [1, {MOST_SLMS}]: set a number in that range")
        if self.shortlist_size is not None and not 1 <= self.shortlist_size <= self.num_slms:
            raise ConfigError(
                f"model.shortlist_size {self.shortlist_size} is outside [1, {self.num_slms}]: set a number up to "
                "model.num_slms, or null to ask all"
            )


@dataclass(frozen=True)
class Found(_Record):
    """Results of reads: ``slots``, ``read_confidence``, ``ranges`` and ``num_reads_tried``, all (B, N[, K], ...)."""

    slots: Slots
    read_confidence: Tensor
    ranges: Ranges
    num_reads_tried: Tensor


class System(Parts):
    """A BLM, a fleet of SLMs and a memory, ready to predict. Nothing here trains."""

    @property
    def tables(self) -> Tensor | None:
        """See ``tables_of``."""
        return tables_of(self.fleet.members, self.spec.num_tables)

    @torch.no_grad()
    def observe(self, query: Query, seen: Tensor | None = None) -> Tensor | None:
        """Update what is known of the episodes (B, ...) with this step.

        Give the result to ``predict`` of this step and ``observe`` of the next; None if the world's records are not
        transitions. Do not observe an imagined step.
        """
        found = self.blm.observe(query.past.to(self.device).unsqueeze(1), query.current.to(self.device).unsqueeze(1))
        if found is None:
            return None
        return found[:, 0] if seen is None else seen + found[:, 0]

    @torch.no_grad()
    def predict(
        self,
        query: Query,
        *,
        seen: Tensor | None = None,
        ranges: Ranges | None = None,
        mask: Tensor | None = None,
        redirect: Redirect | None = None,
        proposals: Proposals | None = None,
        health: SLMHealth | None = None,
    ) -> Step:
        """Predict the next state; only the ranges of trusted SLMs are read.

        A low read confidence leads to a second look: the SLM's other candidates are read at once, and the one believed
        most is used. There is no second look if ``ranges`` are given.

        Args:
            query: of B samples.
            seen: the episode so far, from ``observe``; None if only the query is known.
            ranges: (B, N) read these instead of what the SLMs propose.
            mask: (B, N) trust these instead of the router's choice; they come first on the shortlist.
            redirect: changes the ranges, on the CPU, before they are read; for controls.
            proposals: of all N SLMs to this query, if they are known already.
            health: which SLMs may be trusted; if none may, nothing is read.

        Returns:
            the step, with a column for each SLM that was asked.

        Raises:
            DataError: the query does not fit the world, or is not within ``LARGEST``.
        """
        check_query(query, self.spec, self.blm.config.query_dim)
        query = query.to(self.device)
        allowed = None if health is None else health.allowed()
        mask, allowed = (None if part is None else part.to(self.device) for part in (mask, allowed))
        shortlist = self.blm.shortlist(query, prefer=preference(mask, allowed))
        mask, allowed = (None if part is None else of_shortlist(part, shortlist) for part in (mask, allowed))
        forward = ForwardPass(self, query, shortlist)
        proposals = forward.propose(proposals)
        forward.sense(seen)
        chosen = choose(forward.route(), mask, allowed)
        wanted = proposals.ranges()
        if ranges is not None:
            wanted = ranges.to(self.device).map(lambda x: of_shortlist(x, shortlist))
        wanted = redirected(wanted, redirect)
        first = look(forward, Ranges(wanted.start, wanted.length * chosen.long()))
        found = first if ranges is not None else look_again(forward, proposals, first, redirect)
        prediction = forward.predict(found.slots, chosen)
        next_state = from_change(self.spec, query.current, prediction.change)
        request = prediction.info_query(self.blm.config.request_price)
        return Step(
            next_state, chosen, found.ranges, found.num_reads_tried, proposals, request,
            found.read_confidence, first.read_confidence, shortlist,
        )  # fmt: skip

    @torch.no_grad()
    def wanted(self, query: Query, proposals: Proposals) -> Tensor:
        """(B, N) bool, the SLMs that the router asks and trusts with these proposals if health is ignored."""
        query = query.to(self.device)
        forward = ForwardPass(self, query, self.blm.shortlist(query))
        forward.propose(proposals)
        forward.sense()
        trusted = forward.route().mask > 0.5
        if forward.shortlist is None:
            return trusted
        nobody = trusted.new_zeros(len(trusted), self.blm.num_slms)
        return nobody.scatter_(1, forward.shortlist, trusted)


def look(forward: ForwardPass, ranges: Ranges) -> Found:
    """Read (B, N[, K]) ranges for the samples."""
    (index,) = forward.read(ranges)
    slots = forward.look(index)
    return Found(slots, read_confidence(forward.pooled), ranges, (ranges.length > 0).long())


def look_again(forward: ForwardPass, proposals: Proposals, found: Found, redirect: Redirect | None) -> Found:
    """Second look: if the read confidence is low, try the SLM's other candidates."""
    doubted = (found.num_reads_tried > 0) & (found.read_confidence < DOUBTED)
    rows = doubted.any(1).nonzero().squeeze(1)
    others = range(1, proposals.start.shape[-1])
    if not len(rows) or not others:
        return found
    wanted = [redirected(proposals.ranges(k), redirect) for k in others]
    ranges = wanted[0].map(lambda *parts: torch.stack(parts, dim=-1)[rows], *wanted[1:])
    ranges = Ranges(ranges.start, ranges.length * doubted[rows].unsqueeze(-1))
    return improved(found, rows, look(forward.at(rows), ranges))


def choose(routing: Routing, mask: Tensor | None, allowed: Tensor | None) -> Tensor:
    """(B, N) SLMs to trust: the router's choice or the given mask, among those allowed."""
    chosen = routing.mask.round() if mask is None else mask.round()
    if allowed is None:
        return chosen
    kept = chosen * allowed
    if mask is None:
        kept = torch.where(kept.any(-1, keepdim=True), kept, best_of(routing.logit, allowed))
    return kept


def improved(found: Found, rows: Tensor, again: Found) -> Found:
    """Replace reads of (R,) rows by the best of (R, N, K) second looks if its read confidence is higher."""
    best = again.read_confidence.argmax(-1)
    better = again.read_confidence.amax(-1) > found.read_confidence[rows]

    def improve(before: Tensor, after: Tensor) -> Tensor:
        index, use = (x.view(*x.shape, *[1] * (before.dim() - 2)) for x in (best, better))
        chosen = after.gather(2, index.unsqueeze(2).expand(-1, -1, 1, *before.shape[2:])).squeeze(2)
        return before.index_put((rows,), torch.where(use, chosen, before[rows]))

    num_reads_tried = found.num_reads_tried.index_add(0, rows, again.num_reads_tried.sum(-1))
    return replace(found.map(improve, again), num_reads_tried=num_reads_tried)


def preference(mask: Tensor | None, allowed: Tensor | None) -> Tensor | None:
    """(B, N) 1 for SLMs to ask first, -1 for those to ask last, 0 for others; None without a preference."""
    if allowed is None:
        return None if mask is None else mask.round()
    return allowed - 1 if mask is None else (mask.round() + 1) * allowed - 1


def redirected(ranges: Ranges, redirect: Redirect | None) -> Ranges:
    """(B, N) ranges after ``redirect``, which runs on the CPU."""
    return ranges if redirect is None else redirect(ranges.to("cpu")).to(ranges.start.device)


def best_of(logit: Tensor, allowed: Tensor) -> Tensor:
    """(B, N) 1 at the highest logit among those allowed; all zeros if none is allowed."""
    best = logit.masked_fill(allowed == 0, -torch.inf).argmax(-1)
    return F.one_hot(best, logit.shape[-1]).float() * allowed


def read_confidence(pooled: Pooled) -> Tensor:
    """(B, N) mean probability that the sample needs a record of the read; 0 without a read.

    The records of a range have one owner, so the mean evens out chance beliefs.
    """
    probability = torch.sigmoid(pooled.belief) * pooled.valid
    return probability.sum(-1) / pooled.valid.sum(-1).clamp(min=1)


def check_query(query: Query, spec: WorldSpec, query_dim: int) -> None:
    """Raise DataError unless there are samples and all inputs are float32 of the world's width, within the limit."""
    widths = {"current": spec.state_dim, "past": spec.state_dim, "characteristics": spec.char_dim}
    widths["info_query"] = query_dim
    inputs: dict[str, Tensor] = {name: getattr(query, name) for name in widths}
    fitting = [len(x) for name, x in inputs.items() if x.dim() == 2 and x.shape[1] == widths[name] and len(x)]
    wanted = fitting[0] if fitting else "B"
    for name, x in inputs.items():
        if x.shape != (wanted, widths[name]) or x.dtype != torch.float32:
            found = f"shape {tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
            raise DataError(f"query.{name} has {found}: {spec.name} needs ({wanted}, {widths[name]}) of float32")
        wrong = ~(x.abs() <= LARGEST)
        if bool(wrong.any()):
            index = tuple(wrong.nonzero()[0].tolist())
            raise DataError(f"query.{name} is {float(x[index])} at {index}: give numbers within +-{LARGEST:g}")


def build_blm(config: ModelConfig, spec: WorldSpec, seed: int) -> BLM:
    """Build a BLM; the seed fixes its initial weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "blm"))
        return BLM(config.blm, spec, config.slm.d_model, config.num_slms, shortlist_size=config.shortlist_size)


def to_change(spec: WorldSpec, current: Tensor, target: Tensor) -> Tensor:
    """The (..., Y) target in the BLM's units: a change or a state, over the world's scale."""
    base = current[..., : spec.target_dim] if spec.residual else 0.0
    return (target - base) / spec.scale.to(target.device)


def from_change(spec: WorldSpec, current: Tensor, change: Tensor) -> Tensor:
    """Inverse of ``to_change``."""
    base = current[..., : spec.target_dim] if spec.residual else 0.0
    return base + change * spec.scale.to(change.device)
