"""What a prediction and a joint step cost on a cluster of any size: a model of calls, bytes and FLOPs.

A step is a sum of parts, each a count times a constant. The counts follow from the sizes of a system and where it runs;
the constants are fitted to what ``benchmarks/slm_curve.py`` measured. The largest part is the bottleneck.

It counts one learner, which calls its actors and waits for the slowest. Calls and SLMs are spread evenly over the
actors. It does not model a network: ``Constants.wire`` is the time of a byte between processes of one machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

WORD_BYTES = 4
TRAINED_BYTES = 16
"""Of a parameter that is trained: itself, its gradient, and AdamW's two moments."""
PROCESS_BYTES = 230e6
"""Of an actor that has imported torch."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a system.

    Attributes:
        slm_flops: of one answer; ``slm_parameters`` of one SLM.
        blm_flops: of a prediction without any slot; ``slot_flops`` of each SLM asked.
        joint_flops: of the BLM in a joint step, a sample, with 3 SLMs asked.
        blm_parameters: without what is each SLM's own; ``own_parameters`` of the BLM for each SLM.
        row_bytes: of a sample that is sent; ``pair_bytes`` of an answer and, in a joint step, of its credit.
    """

    slm_flops: float
    slm_parameters: float
    blm_flops: float
    slot_flops: float
    joint_flops: float
    blm_parameters: float
    own_parameters: float
    row_bytes: float
    pair_bytes: float


@dataclass(frozen=True)
class Place:
    """A system somewhere.

    Attributes:
        slms: of which ``asked`` are asked.
        actors: that share the SLMs; at most ``parallel`` of them compute at once.
        nodes: machines.
        words: of the memory, in ``copies``.
        batch: samples at once.
    """

    slms: int
    asked: int
    batch: int = 64
    actors: int = 3
    parallel: int = 2
    nodes: int = 1
    words: float = 2**16
    copies: int = 1

    @property
    def pairs(self) -> int:
        """Return the number of pairs of a sample and an SLM of its shortlist."""
        return self.batch * self.asked

    @property
    def actors_asked(self) -> float:
        """Return the expected number of called actors, if all SLMs are equally likely."""
        return touched(self.actors, self.pairs)

    @property
    def slms_asked(self) -> float:
        """Return the expected number of called SLMs."""
        return float(self.slms) if self.asked == self.slms else touched(self.slms, self.pairs)

    @property
    def at_once(self) -> float:
        """Actors that compute at the same time."""
        return max(1.0, min(self.actors_asked, self.parallel))


@dataclass(frozen=True)
class Constants:
    """Seconds of one of each.

    Attributes:
        fixed: a step's own; ``call`` of a message; ``wire`` of a byte that is sent; ``read`` of a range.
        slm: of a FLOP of an SLM; ``blm`` of the BLM; ``key`` of a sample and a key of the router.
        slm_step: in a joint step, of an SLM's optimiser; ``blm_step`` of one parameter of the BLM's.
    """

    fixed: float = 0.0
    call: float = 0.0
    wire: float = 0.0
    slm: float = 0.0
    blm: float = 0.0
    key: float = 0.0
    slm_step: float = 0.0
    blm_step: float = 0.0
    read: float = 4e-7


def touched(boxes: float, throws: float) -> float:
    """Return the expected number of boxes that are hit at least once."""
    return boxes * -np.expm1(throws * np.log1p(-1 / boxes)) if boxes > 1 else 1.0


def counts(place: Place, sizes: Sizes, *, joint: bool) -> dict[str, float]:
    """Return how often each constant counts in a prediction or a joint step."""
    rows = place.actors_asked * touched(place.batch, place.pairs / place.actors_asked)
    trips, passes = (2, 3) if joint else (1, 1)
    blm = sizes.joint_flops if joint else sizes.blm_flops + place.asked * sizes.slot_flops
    found = {
        "fixed": 1.0,
        "call": trips * place.actors_asked,
        "wire": rows * sizes.row_bytes + trips * place.pairs * sizes.pair_bytes,
        "slm": passes * place.pairs * sizes.slm_flops / place.at_once,
        "blm": place.batch * blm,
        "key": 0.0 if place.asked == place.slms else passes * float(place.batch * place.slms),
        "read": float(place.pairs),
    }
    if joint:
        found["slm_step"] = place.slms_asked / place.at_once
        found["blm_step"] = sizes.blm_parameters + place.slms * sizes.own_parameters
    return found


def seconds(place: Place, sizes: Sizes, constants: Constants, *, joint: bool) -> dict[str, float]:
    """Each part of a prediction or a joint step."""
    return {name: count * getattr(constants, name) for name, count in counts(place, sizes, joint=joint).items()}


def node_bytes(place: Place, sizes: Sizes) -> dict[str, float]:
    """Memory of the node that has the learner, by what holds it."""
    return {
        "words": place.words * WORD_BYTES * place.copies / place.nodes,
        "SLMs": place.slms / place.nodes * sizes.slm_parameters * TRAINED_BYTES,
        "processes": PROCESS_BYTES * (1 + place.actors / place.nodes),
        "BLM": (sizes.blm_parameters + place.slms * sizes.own_parameters) * TRAINED_BYTES,
    }


def largest(parts: Mapping[str, float]) -> str:
    """Return the bottleneck."""
    return max(parts, key=lambda name: parts[name])


def fit(rows: Sequence[Mapping[str, float]], measured_s: Sequence[float], known: Constants | None = None) -> Constants:
    """Constants by least squares of the relative error; none is negative.

    A FLOP takes as long in an SLM as in the BLM: both grow with the samples and those asked, and measurements of whole
    steps could not tell them apart.

    Args:
        rows: ``counts`` of each measurement.
        measured_s: of each.
        known: constants that are not fitted are taken from here; those that are 0 there are fitted.
    """
    known = Constants() if known is None else known
    rows = [{**row, "slm": 0.0, "blm": row.get("blm", 0.0) + row.get("slm", 0.0)} for row in rows]
    weight = 1 / np.asarray(measured_s)
    given = sum(np.array([row.get(f.name, 0.0) * getattr(known, f.name) for row in rows]) for f in fields(known))
    names = [f.name for f in fields(known) if not getattr(known, f.name) and any(row.get(f.name) for row in rows)]
    while names:
        matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows]) * weight[:, None]
        scale = np.abs(matrix).max(0)
        found = np.linalg.lstsq(matrix / scale, (1 - given * weight), rcond=None)[0] / scale
        if (found >= 0).all():
            break
        # Drop the most negative first: others may be positive without it.
        names.pop(int((found * scale).argmin()))
    kept = dict(zip(names, found.tolist(), strict=True)) if names else {}
    made = Constants(**{f.name: kept.get(f.name, getattr(known, f.name)) for f in fields(known)})
    return replace(made, slm=made.blm)
