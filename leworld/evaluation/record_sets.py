"""Record sets: a system predicts a body from a given set of its transitions only.

Shapes:
    W: bodies.  L: transitions in a body's stream.  Q: transitions to be predicted.  V: variants, each a body and a set.
    M: records in a set.  P: predictions of a variant.  R: words of a record.  S, Y, C, N: see ``leworld.types``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.errors import ConfigError, DataError
from leworld.evaluation.metrics import errors
from leworld.evaluation.trials import reading
from leworld.memory import PAGE_WORDS, WordStore
from leworld.memory.ranges import MAX_ADDRESS_BITS
from leworld.models.system import System
from leworld.types import Proposals, Query, Ranges, Split, _Record
from leworld.worlds.draws import SPLITS
from leworld.worlds.trajectories import TrajectoryWorld

_CHUNK = 2048
"""Predictions at a time."""


@dataclass(frozen=True)
class Transitions(_Record):
    """``past``, ``inputs`` (W, L, S) and ``following`` (W, L, Y) of W bodies, in the order of observation."""

    past: Tensor
    inputs: Tensor
    following: Tensor

    def then(self, later: Transitions) -> Transitions:
        """These and later ones of the same bodies."""
        pairs = ((self.past, later.past), (self.inputs, later.inputs), (self.following, later.following))
        return Transitions(*(torch.cat(pair, dim=1) for pair in pairs))


@dataclass(frozen=True)
class RecordStreams:
    """Bodies ``world`` (W,) with ``characteristics`` (W, C): the transitions ``seen``, also as ``words`` (W, L, R), and
    those to be ``predicted`` (W, Q)."""

    world: Tensor
    characteristics: Tensor
    seen: Transitions
    words: NDArray[np.uint32]
    predicted: Transitions


def body_streams(world: TrajectoryWorld, split: Split, count: int | None = None) -> RecordStreams:
    """Streams of a split's first bodies: their stored transitions and sequences; the last sequence is to be predicted.

    Args:
        world: its bodies need at least two sequences each; all use as many as the body with the fewest.
        split: of the bodies.
        count: how many; None for all.

    Raises:
        DataError: a body has fewer than two sequences.
    """
    data = world.data
    bodies = (data.split == SPLITS.index(split)).nonzero().squeeze(1)[:count]
    own = [(data.world == body).nonzero().squeeze(1) for body in bodies]
    fewest = min((len(sequences) for sequences in own), default=0)
    if fewest < 2:
        raise DataError(f"{world.spec.name}: a {split} body has {fewest} sequences; records need 2 each to be tried on")
    chosen = torch.stack([sequences[:fewest] for sequences in own])
    sequences = Transitions(data.past[chosen], data.inputs[chosen], data.following[chosen])
    stored = Transitions(data.stored_inputs[bodies], data.stored_inputs[bodies], data.stored_next[bodies])
    earlier = sequences.map(lambda x: x[:, :-1].flatten(1, 2))
    seen = stored.then(earlier)
    words = world.pack(bodies.unsqueeze(1).expand(seen.inputs.shape[:2]), seen.inputs, seen.following)
    predicted = sequences.map(lambda x: x[:, -1])
    return RecordStreams(bodies, data.characteristics[bodies], seen, words, predicted)


class SetReader:
    """A system that reads sets of a body's records and trusts all of them, without proposals or routing."""

    def __init__(self, system: System, streams: RecordStreams) -> None:
        self.num_tables = system.spec.num_tables
        self.memory = WordStore(MAX_ADDRESS_BITS)
        self.system = reading(system, self.memory)
        self.streams = streams
        self._seen = self._questions(streams.seen)
        self._predicted = self._questions(streams.predicted)

    def test_errors(self, kept: Tensor) -> Tensor:
        """(W, Q) errors on the transitions to predict, from the records ``kept`` (W, M) int64 of each stream."""
        bodies, count = torch.arange(len(kept)), self.streams.predicted.inputs.shape[1]
        return self._errors(self._predicted, bodies, kept, torch.arange(count).expand(len(kept), -1))

    def seen_errors(self, body: Tensor, kept: Tensor, probes: Tensor) -> Tensor:
        """(V, P) errors on other transitions of a stream.

        Args:
            body: (V,) int64, row of the stream.
            kept: (V, M) int64, the records that may be read.
            probes: (V, P) int64, the transitions to predict.
        """
        return self._errors(self._seen, body, kept, probes)

    def surprise(self) -> Tensor:
        """(W, L) error of predicting each transition of a stream without memory."""
        everyone = torch.arange(len(self.streams.world))
        nothing = everyone.new_zeros(len(everyone), 0)
        every = torch.arange(self.streams.seen.inputs.shape[1]).expand(len(everyone), -1)
        return self._errors(self._seen, everyone, nothing, every)

    def _errors(self, questions: _Questions, body: Tensor, kept: Tensor, probes: Tensor) -> Tensor:
        predicted = self._predict(questions, body, kept, probes)
        truth = questions.following[body.unsqueeze(1), probes]
        return errors(predicted, truth, self.system.spec.scale)

    def _predict(self, questions: _Questions, body: Tensor, kept: Tensor, probes: Tensor) -> Tensor:
        """(V, P, Y), some variants at a time."""
        size = max(1, _CHUNK // probes.shape[1])
        pieces = zip(body.split(size), kept.split(size), probes.split(size), strict=True)
        return torch.cat([self._predict_some(questions, *piece) for piece in pieces])

    def _predict_some(self, questions: _Questions, body: Tensor, kept: Tensor, probes: Tensor) -> Tensor:
        ranges = self._write(body, kept)
        num_variants, num_probes = probes.shape
        asked = questions.map(lambda x: x[body.unsqueeze(1), probes].flatten(0, 1))
        repeated = ranges.map(lambda x: x.repeat_interleave(num_probes, dim=0))
        mask = (repeated.length > 0).float()
        step = self.system.predict(asked.query, ranges=repeated, mask=mask, proposals=asked.proposals)
        return step.next_state.cpu().unflatten(0, (num_variants, num_probes))

    def _write(self, body: Tensor, kept: Tensor) -> Ranges:
        """Write the sets to (V, N) ranges: each variant and table has a page, record j goes to table j % N."""
        num_variants, count = kept.shape
        records = self.streams.words[body.unsqueeze(1).numpy(), kept.numpy()]
        start = torch.arange(num_variants * self.num_tables).view(num_variants, -1) * PAGE_WORDS
        length = torch.zeros_like(start)
        for table in range(min(self.num_tables, count)):
            block = np.ascontiguousarray(records[:, table :: self.num_tables].reshape(num_variants, -1))
            if block.shape[1] > PAGE_WORDS:
                raise ConfigError(f"{count} records need {block.shape[1]} words of {PAGE_WORDS} a table: keep fewer")
            self.memory.write(start[:, table].numpy(), block)
            length[:, table] = block.shape[1]
        return Ranges(start, length)

    def _questions(self, transitions: Transitions) -> _Questions:
        """Queries and proposals for every transition; the proposed addresses do not matter."""
        num_bodies, count = transitions.inputs.shape[:2]
        codes = self.streams.characteristics.unsqueeze(1).expand(-1, count, -1)
        nothing = transitions.inputs.new_zeros(num_bodies, count, self.system.blm.config.query_dim)
        query = Query(transitions.past, transitions.inputs, codes, nothing)
        proposals = self.system.fleet.propose(query.map(lambda x: x.flatten(0, 1))).to("cpu")
        return _Questions(query, proposals.map(lambda x: x.unflatten(0, (num_bodies, count))), transitions.following)


@dataclass(frozen=True)
class _Questions(_Record):
    """``query`` and ``proposals`` (W, Q, ...), and ``following`` (W, Q, Y)."""

    query: Query
    proposals: Proposals
    following: Tensor
