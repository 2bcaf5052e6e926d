"""SLMHealth: a sequential test that excludes SLMs whose reads are no longer believed.

The router decides before reading, from an SLM's own confidence, so it cannot see an SLM that fails with unchanged
confidence. The health check uses the read confidence of an SLM's best candidates. They add up in a sequential
probability ratio test of "believed as rarely as a corrupt SLM's" against "as often as a healthy one's". The sum
stays at zero or above, so that old merit does not hide failure, and at the threshold or below, so that recovery shows.

Source: Wald 1945, https://doi.org/10.1214/aoms/1177731118; with the floor at zero, Page 1954,
https://doi.org/10.1093/biomet/41.1-2.100

Shapes:
    B: streams, each with one sample per step.  N: SLMs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from leworld.errors import ConfigError, DataError
from leworld.types import Step


@dataclass(frozen=True)
class SLMHealthConfig:
    """Settings of the health check.

    Attributes:
        healthy: rate at which a healthy SLM's reads are believed.
        corrupt: rate at which a corrupt SLM's reads are believed by chance; below ``healthy``.
        error_rate: of either verdict, by Wald's thresholds.
        probe_every: steps without a read before an excluded SLM is probed again.
    """

    healthy: float = 0.95
    corrupt: float = 0.3
    error_rate: float = 0.01
    probe_every: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.corrupt < self.healthy < 1:
            raise ConfigError(
                f"standing: corrupt {self.corrupt} and healthy {self.healthy} are not 0 < corrupt < healthy < 1: "
                "give the rates at which wrong and right reads are believed"
            )
        if not 0 < self.error_rate < 0.5:
            raise ConfigError(f"standing: error_rate {self.error_rate} is outside (0, 0.5): give one such as 0.01")
        if self.probe_every < 1:
            raise ConfigError(f"standing: probe_every {self.probe_every} is below 1: give a number of steps")

    @property
    def limit(self) -> float:
        """The sum in nats at which an SLM is excluded."""
        return math.log((1 - self.error_rate) / self.error_rate)

    def evidence(self, read_confidence: Tensor) -> Tensor:
        """Log-likelihood ratio of corrupt against healthy, in nats, for reads believed with these probabilities."""
        for_corrupt = math.log(self.corrupt / self.healthy)
        against = math.log((1 - self.corrupt) / (1 - self.healthy))
        return read_confidence * for_corrupt + (1 - read_confidence) * against


@dataclass(frozen=True)
class SLMHealth:
    """The test's state for each stream and SLM.

    ``doubt`` (B, N) in nats, from 0 to ``config.limit``; ``excluded`` (B, N) bool, True from when doubt reaches
    the limit until it is back at 0; ``wait`` (B, N) int64, steps until an excluded SLM may be probed again.
    """

    doubt: Tensor
    excluded: Tensor
    wait: Tensor
    config: SLMHealthConfig = field(default_factory=SLMHealthConfig)

    @classmethod
    def fresh(
        cls,
        num_streams: int,
        num_slms: int,
        config: SLMHealthConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> SLMHealth:
        """A state without doubt.

        Args:
            num_streams: B; with 1, one state serves a batch of any size, whose reads are averaged at each step.
            num_slms: N.
            config: of the test.
            device: of the tensors; that of the system.
        """
        doubt = torch.zeros(num_streams, num_slms, device=device)
        wait = torch.zeros(num_streams, num_slms, dtype=torch.int64, device=device)
        return cls(doubt, torch.zeros_like(wait, dtype=torch.bool), wait, config or SLMHealthConfig())

    def allowed(self) -> Tensor:
        """(B, N) float, 1 if an SLM may be trusted now: it is not excluded, or due to be probed again."""
        return (~self.excluded | (self.wait == 0)).float()

    def observe(self, step: Step) -> SLMHealth:
        """The test's state after a step.

        Raises:
            DataError: the step has another number of samples.
        """
        read, read_confidence = self._reads(step)
        doubt = (self.doubt + self.config.evidence(read_confidence)).clamp(0, self.config.limit)
        doubt = torch.where(read, doubt, self.doubt)
        excluded = torch.where(self.excluded, doubt > 0, doubt >= self.config.limit)
        # After a probe that was believed, the SLM is probed again at once.
        failed = excluded & (~self.excluded | (read & (read_confidence <= 0.5)))
        wait = torch.where(failed, self.config.probe_every, (self.wait - 1).clamp(min=0))
        return replace(self, doubt=doubt, excluded=excluded, wait=wait)

    def _reads(self, step: Step) -> tuple[Tensor, Tensor]:
        """(B, N) which SLMs were read, and the read confidence of their best candidates."""
        read, read_confidence = step.reads.length > 0, step.first_read_confidence
        if len(self.doubt) == 1:
            count = read.sum(0, keepdim=True)
            return count > 0, (read_confidence * read).sum(0, keepdim=True) / count.clamp(min=1)
        if len(read) != len(self.doubt):
            raise DataError(
                f"standing of {len(self.doubt)} streams, and a step of {len(read)} samples: give one sample a stream"
            )
        return read, read_confidence
