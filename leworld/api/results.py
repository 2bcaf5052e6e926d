"""The model's results, as numpy arrays.

Shapes:
    B: episodes of the session; a session of one has no such axis.  N: SLMs.  K: candidates.  H: steps ahead.  S: state.
    R: blocks written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Read:
    """One range of the memory whose words a prediction used.

    Attributes:
        slm: number of the SLM that proposed it.
        start: address of the first word.
        length: number of words.
        confidence: the read confidence, in [0, 1].
        words: (length,) uint32.
    """

    slm: int
    start: int
    length: int
    confidence: float
    words: NDArray[np.uint32]


Reads = tuple[Read, ...]


@dataclass(frozen=True, eq=False)
class PredictedStep:
    """One step ahead.

    Attributes:
        next_state: ([B,] S) float64, in the units of the user's states.
        mask: ([B,] N) bool, which SLMs the BLM trusted, in the order of ``Model.slms``.
        reads: of the trusted SLMs; for a batch, one tuple per episode.
    """

    next_state: NDArray[np.float64]
    mask: NDArray[np.bool_]
    reads: Reads | tuple[Reads, ...]


@dataclass(frozen=True, eq=False)
class PredictedPath:
    """Many steps ahead.

    Attributes:
        states: ([B,] [K,] H, S) float64, the states after each action, in the units of the user's states.
        mask: ([B,] [K,] H, N) bool, which SLMs the BLM trusted at each step.
    """

    states: NDArray[np.float64]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class WriteReceipt:
    """What ``ModelMemory.write`` did; ``ModelMemory.erase`` takes it to undo the write.

    Attributes:
        number: of the write, from 1 since the model was loaded.
        start: (R,) int64 first word of each block.
        length: (R,) int64 words of each block.
        crc32: checksum of the words.
        written: transitions written; 0 for plain words.
        left_out: transitions that did not fit into the bodies' blocks.
    """

    number: int
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    crc32: int
    written: int = 0
    left_out: int = 0
